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
  kept_[op].outputs.push_back(keeps(op) ? outputs : std::vector<Tensor>());
  last_op_ = op;
  last_outputs_ = outputs;
}

// Of the next call in the second run.
std::vector<Tensor>& KeptOutputs::next(KeptOp op) {
  Calls& calls = kept_[op];
  LONGSHIP_CHECK(calls.num_taken < calls.outputs.size(),
                 "{} {} of a block that runs again: its two runs differ", name_of(op),
                 calls.num_taken);
  return calls.outputs[calls.num_taken];
}

std::vector<Tensor> KeptOutputs::take(KeptOp op) {
  if (is_second_run_) {
    std::vector<Tensor> outputs = std::move(next(op));
    if (!outputs.empty()) ++kept_[op].num_taken;
    return outputs;
  }
  if (outer_ == nullptr) return {};
  std::vector<Tensor> outputs = outer_->take(op);
  if (!outputs.empty()) keep(op, outputs);
  return outputs;
}

std::vector<Tensor> KeptOutputs::get(KeptOp op, const Compute& compute) {
  if (is_second_run_) {
    std::vector<Tensor> outputs = take(op);
    if (!outputs.empty()) return outputs;
    ++kept_[op].num_taken;
    return compute();
  }
  std::vector<Tensor> outputs = outer_ != nullptr ? outer_->get(op, compute) : compute();
  keep(op, outputs);
  return outputs;
}

void KeptOutputs::begin_second_run(const Tensor& y) {
  is_second_run_ = true;
  outer_ = nullptr;
  // Both are alive: with one address they are one.
  if (last_outputs_.size() == 1 && last_outputs_[0].address() == y.address())
    kept_[last_op_].outputs.back() = std::move(last_outputs_);
  last_outputs_.clear();
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
