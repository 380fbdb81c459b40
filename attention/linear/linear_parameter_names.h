// What the parameters of a linear-attention layer are called in the published models of its family.
#pragma once

#include <string>
#include <string_view>

namespace longship {

// A projection is one matrix, or two by way of a low rank.
struct ProjectionNames {
  std::string full, down, up;
};

struct LinearParameterNames {
  std::string module = "linear_attn";
  // Initials: q gives q_proj and q_conv1d.
  std::string q = "q", k = "k", v = "v";
  ProjectionNames gate = {"a_proj", "a_proj.0", "a_proj.1"};
  ProjectionNames output_gate = {"g_proj", "g_proj.0", "g_proj.1"};
  std::string norm = "o_norm";
  std::string output = "o_proj";

  // `backend` is one of linear_families().
  static LinearParameterNames of(std::string_view backend);
};

}  // namespace longship
