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

std::vector<Tensor> KeptOutputs::get(KeptOp op, const Compute& compute) {
  if (is_second_run_ && keeps(op)) {
    LONGSHIP_CHECK(num_taken_ < kept_.size() && kept_[num_taken_].op == op,
                   "{} {} of a block that runs again: its two runs differ", name_of(op),
                   num_taken_);
    return std::move(kept_[num_taken_++].outputs);
  }
  std::vector<Tensor> outputs = outer_ != nullptr ? outer_->get(op, compute) : compute();
  if (keeps(op)) kept_.push_back({op, outputs});
  return outputs;
}

void KeptOutputs::begin_second_run() {
  is_second_run_ = true;
  outer_ = nullptr;
}

void KeptOutputs::visit(const std::function<void(const std::string&, Tensor&)>& visit) {
  for (Kept& kept : kept_)
    for (size_t i = 0; i < kept.outputs.size(); ++i)
      visit(fmt::format("{}.{}", name_of(kept.op), i), kept.outputs[i]);
}

std::vector<Tensor> computed_once(const Context& ctx, KeptOp op,
                                  const KeptOutputs::Compute& compute) {
  return ctx.kept != nullptr ? ctx.kept->get(op, compute) : compute();
}

}  // namespace longship
