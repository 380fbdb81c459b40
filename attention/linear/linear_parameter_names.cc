#include "attention/linear/linear_parameter_names.h"

namespace longship {

LinearParameterNames LinearParameterNames::of(std::string_view backend) {
  LinearParameterNames names;
  if (backend == "lightning") {  // MiniMax-01
    names.output_gate.full = "output_gate";
    names.norm = "norm";
    names.output = "out_proj";
  } else if (backend == "mamba2") {  // what in_proj and conv1d of Mamba-2 hold, by their letters
    names.module = "mamba";
    names.q = "C";
    names.k = "B";
    names.v = "x";
    names.gate.full = "dt_proj";
    names.output_gate.full = "z_proj";
    names.norm = "norm";
    names.output = "out_proj";
  } else if (backend == "retention" || backend == "gla" || backend == "simple_gla") {
    names.gate = {"gk_proj", "gk_proj.0", "gk_proj.1"};
    names.norm = "g_norm_swish_gate";
  } else if (backend == "hgrn2") {
    names.v = "i";
    names.gate.full = "f_proj";
    names.norm = "g_norm";
  } else if (backend == "kda") {  // Kimi Linear
    names.gate = {"f_proj", "f_a_proj", "f_b_proj"};
    names.output_gate = {"g_proj", "g_a_proj", "g_b_proj"};
  }
  return names;
}

}  // namespace longship
