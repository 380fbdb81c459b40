#include "parallel/softmax_local.h"

namespace longship {
namespace {

class LocalPasses final : public ResidentPasses {
 public:
  LocalPasses(const char* name, const SoftmaxBlock& kernel)
      : ResidentPasses(name, Group::self(), kernel) {}

  SoftmaxBlockOutput forward(Context& ctx, const ResidentAttention& call) const override {
    return kernel().forward(ctx, call.input, *mask(call), whole_o_dtype(call));
  }

  ResidentGradients backward(Context& ctx, const ResidentAttention& call,
                             const SoftmaxBlockOutput& output,
                             const Tensor& do_THV) const override {
    const SoftmaxBlockInput& in = call.input;
    const DType dtype = output_dtype(call);
    const SoftmaxBlockBackward gradients{
        .do_THV = do_THV,
        .lse_TH = output.lse_TH,
        .delta_or_o = row_term_of(ctx, kernel(), output.o_THV, do_THV),
        .dq_THD = ctx.empty(in.q_THD.shape(), dtype),
        .dk_SKD = ctx.empty(in.k_SKD.shape(), dtype),
        .dv_SKV = ctx.empty(in.v_SKV.shape(), dtype),
        .write_dq = true,
        .write_dkv = true};
    kernel().backward(ctx, in, *mask(call), gradients);
    return {gradients.dq_THD, gradients.dk_SKD, gradients.dv_SKV};
  }

 private:
  static std::shared_ptr<const BlockMask> mask(const ResidentAttention& call) {
    return rank_mask(call.plan, call.plan.rank(), call.plan.rank(), call.rule);
  }
};

}  // namespace

std::shared_ptr<const ResidentPasses> make_local_passes(const char* name,
                                                        const SoftmaxBlock& kernel) {
  return std::make_shared<LocalPasses>(name, kernel);
}

std::unique_ptr<SoftmaxSchedule> make_local(const SoftmaxBlock& kernel) {
  return make_resident_schedule(make_local_passes("local_attention", kernel));
}

}  // namespace longship
