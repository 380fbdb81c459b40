#include "attention/linear/linear_node.h"

namespace longship {

LinearInput packed(const LinearAttentionInput& input) {
  auto value = [](const Variable& variable) {
    return variable.defined() ? variable.value().contiguous() : Tensor();
  };
  return {.q_TGK = value(input.q_TGK),
          .k_TGK = value(input.k_TGK),
          .v_THV = value(input.v_THV),
          .gate = value(input.gate),
          .beta_TH = value(input.beta_TH),
          .scale = input.scale};
}

void LinearNode::visit_input(const SavedVisitor& visit, LinearInput& input) {
  visit("q_TGK", input.q_TGK);
  visit("k_TGK", input.k_TGK);
  visit("v_THV", input.v_THV);
  if (input.gate.defined()) visit("gate", input.gate);
  if (input.beta_TH.defined()) visit("beta_TH", input.beta_TH);
}

void LinearNode::add(Context& ctx, LinearGradients gradients) {
  Tensor* const by_input[] = {&gradients.dq_TGK, &gradients.dk_TGK, &gradients.dv_THV,
                              &gradients.dgate, &gradients.dbeta_TH};
  for (size_t i = 0; i < num_inputs(); ++i)
    if (input(i) && by_input[i]->defined()) input(i)->add(ctx, std::move(*by_input[i]));
}

bool is_recording(const Context& ctx, const LinearAttentionInput& input) {
  return is_recording(ctx, {&input.q_TGK, &input.k_TGK, &input.v_THV, &input.gate, &input.beta_TH});
}

Variable record(Context& ctx, const char* name, Tensor o_THV, std::unique_ptr<LinearNode> node,
                const LinearAttentionInput& input) {
  return record(ctx, name, std::move(o_THV), std::move(node),
                {&input.q_TGK, &input.k_TGK, &input.v_THV, &input.gate, &input.beta_TH});
}

}  // namespace longship
