#include "parallel/softmax_schedule.h"

namespace longship {

Variable SoftmaxSchedule::attend_when_ready(Context& ctx, const AttentionSources& sources,
                                            const SequencePlan& plan,
                                            const AttentionOptions& options) const {
  const Variable q_THD = sources.q_THD(ctx);
  const Variable k_TKD = sources.k_TKD(ctx);
  const Variable v_TKV = sources.v_TKV(ctx);
  return attend(ctx, q_THD, k_TKD, v_TKV, plan, options);
}

}  // namespace longship
