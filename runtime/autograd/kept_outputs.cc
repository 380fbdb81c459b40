#include "runtime/autograd/kept_outputs.h"

namespace longship {
namespace {

const char* name_of(KeptOp op) {
  return op == KeptOp::kMatmul ? "matmul" : "attention";
}

}  // namespace

bool KeptOutputs::keeps(KeptOp op) const {
  switch (level_) {
    case Recompute::kNone:
      return false;
    case Recompute::kSelective:
      return true;
    case Recompute::kBlock:
      return op == KeptOp::kAttention;
  }
  LONGSHIP_CHECK(false, "recomputation of level {}", static_cast<int>(level_));
}

void KeptOutputs::keep(KeptOp op, const std::vector<Tensor>& outputs) {
  if (keeps(op)) kept_[op].outputs.push_back(outputs);
}

std::vector<Tensor> KeptOutputs::take(KeptOp op) {
  if (is_second_run_ && keeps(op)) {
    Calls& calls = kept_[op];
    LONGSHIP_CHECK(calls.num_taken < calls.outputs.size(),
                   "{} {} of a block that runs again: its two runs differ", name_of(op),
                   calls.num_taken);
    return std::move(calls.outputs[calls.num_taken++]);
  }
  if (outer_ == nullptr) return {};
  std::vector<Tensor> outputs = outer_->take(op);
  if (!outputs.empty()) keep(op, outputs);
  return outputs;
}

std::vector<Tensor> KeptOutputs::get(KeptOp op, const Compute& compute) {
  if (is_second_run_ && keeps(op)) return take(op);
  std::vector<Tensor> outputs = outer_ != nullptr ? outer_->get(op, compute) : compute();
  keep(op, outputs);
  return outputs;
}

void KeptOutputs::begin_second_run() {
  is_second_run_ = true;
  outer_ = nullptr;
}

void KeptOutputs::visit(const std::function<void(const std::string&, Tensor&)>& visit) {
  for (auto& [op, calls] : kept_)
    for (std::vector<Tensor>& outputs : calls.outputs)
      for (size_t i = 0; i < outputs.size(); ++i)
        visit(fmt::format("{}.{}", name_of(op), i), outputs[i]);
}

std::vector<Tensor> computed_once(const Context& ctx, KeptOp op,
                                  const KeptOutputs::Compute& compute) {
  return ctx.kept != nullptr ? ctx.kept->get(op, compute) : compute();
}

std::vector<Tensor> computed_before(const Context& ctx, KeptOp op) {
  return ctx.kept != nullptr ? ctx.kept->take(op) : std::vector<Tensor>();
}

}  // namespace longship
