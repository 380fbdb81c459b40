#include "attention/linear/linear_mixer.h"

#include "attention/linear/decay_kernel.h"
#include "attention/linear/delta_kernel.h"
#include "attention/linear/head_factors.h"
#include "attention/linear/linear_gates.h"
#include "attention/linear/linear_output.h"
#include "attention/linear/linear_qkv.h"
#include "attention/linear/linear_schedule.h"
#include "attention/linear/taylor_map.h"
#include "runtime/error.h"

namespace longship {

struct LinearMixer::Stages {
  Stages(const LinearMixerOptions& chosen, const LinearParameterNames& names,
         ModuleParameters parameters)
      : options(chosen),
        qkv(chosen, names, parameters),
        gates(chosen, names, parameters),
        skip_H(chosen.skip ? parameters.vector("D", chosen.num_heads,
                                               {.kind = Initializer::Kind::kConstant, .a = 1},
                                               Precision::kMaster)
                           : Variable()),
        output(chosen, names, parameters) {
    if (chosen.delta_rule)
      kernel = std::make_unique<DeltaKernel>();
    else
      kernel = std::make_unique<DecayKernel>();
  }

  LinearMixerOptions options;
  LinearQkv qkv;
  LinearGates gates;
  Variable skip_H;  // undefined without a skip connection
  LinearOutput output;
  std::unique_ptr<const LinearKernel> kernel;
};

LinearMixer::LinearMixer(const LinearMixerOptions& options, const std::string& prefix,
                         ParameterList& parameters, LinearMixerResources resources)
    : resources_(std::move(resources)) {
  const LinearParameterNames names = LinearParameterNames::of(options.backend);
  const std::string module = prefix + "." + names.module;
  if (const auto problems = options.problems(); !problems.empty())
    throw Error(ErrorCode::kConfig, {.what = fmt::format("linear attention {}", module),
                                     .found = fmt::format("{}", fmt::join(problems, "; ")),
                                     .next = "correct these options of the model's layers"});
  stages_ = std::make_unique<const Stages>(
      options, names, ModuleParameters(parameters, module, options.init_std, options.num_layers));
}

LinearMixer::~LinearMixer() = default;

Variable LinearMixer::forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan,
                              const Variable& residual_TE) {
  const LinearMixerOptions& options = stages_->options;
  const LinearQkv::Heads heads =
      stages_->qkv.forward(ctx, x_TE, plan, resources_.sp, *resources_.rope_angles);
  const LinearGates::Gates gates = stages_->gates.forward(ctx, x_TE);
  Variable v_THV = heads.v_THV;
  if (gates.dt_TH.defined()) v_THV = stepped(ctx, v_THV, gates.dt_TH);
  if (options.normalized) v_THV = with_ones(ctx, v_THV);
  Variable o_THV =
      resources_.schedule->attend(ctx, *stages_->kernel,
                                  {.q_TGK = heads.q_TGK,
                                   .k_TGK = gates.k_THK.defined() ? gates.k_THK : heads.k_TGK,
                                   .v_THV = v_THV,
                                   .gate = gates.log_decay,
                                   .beta_TH = gates.beta_TH,
                                   .scale = options.kernel_scale()},
                                  plan);
  if (options.normalized) o_THV = divided_by_last(ctx, o_THV);
  if (options.skip) o_THV = head_skip(ctx, o_THV, heads.v_THV, stages_->skip_H);
  return stages_->output.forward(ctx, o_THV, x_TE, residual_TE);
}

}  // namespace longship
