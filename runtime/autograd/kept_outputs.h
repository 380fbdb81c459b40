// What a block that runs again in the backward keeps of its first run, so that the second run takes
// it from there instead of computing it again: what its level says, and its own output, which the
// next block keeps anyway as its input.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "runtime/context.h"

namespace longship {

// How much of a block is computed again in the backward.
enum class Recompute {
  kNone,       // nothing
  kSelective,  // what is cheap, such as norms, activations and RoPE: not matrix products or
               // attention
  kBlock,      // all but attention
};

// The ops whose outputs may be worth their memory.
enum class KeptOp {
  kMatmul,
  kAttention,  // softmax attention: o and lse, with whatever its schedule sends for them
};

class KeptOutputs {
 public:
  using Compute = std::function<std::vector<Tensor>()>;

  // `outer`: of the block around this one, used in the first run only; may be null.
  KeptOutputs(Recompute level, KeptOutputs* outer) : level_(level), outer_(outer) {}

  // In the first run what compute() returns, which is kept if `level` says so for this op; in the
  // second what the same call returned in the first. Both runs make the same calls of an op in one
  // order.
  std::vector<Tensor> get(KeptOp op, const Compute& compute);
  // What the next get() of `op` returns without computing, taken in its place; nothing if it would
  // compute.
  std::vector<Tensor> take(KeptOp op);
  // Ends the first run, whose result is `y`. Where that is what the last of the ops computed, the
  // second run does not compute it again at any level: nobody reads it there.
  void begin_second_run(const Tensor& y);

  // Calls visit("attention.0", tensor) and so on for all that is kept.
  void visit(const std::function<void(const std::string& name, Tensor& tensor)>& visit);

 private:
  struct Calls {                               // of one op
    std::vector<std::vector<Tensor>> outputs;  // of each; nothing where they are not kept
    size_t num_taken = 0;
  };
  bool keeps(KeptOp op) const;
  void keep(KeptOp op, const std::vector<Tensor>& outputs);
  std::vector<Tensor>& next(KeptOp op);

  Recompute level_;
  KeptOutputs* outer_;
  bool is_second_run_ = false;
  std::map<KeptOp, Calls> kept_;
  // Of the last call in the first run.
  KeptOp last_op_ = KeptOp::kMatmul;
  std::vector<Tensor> last_outputs_;
};

// What an op that may be kept computes: compute(), unless ctx.kept has it from the first run.
std::vector<Tensor> computed_once(const Context& ctx, KeptOp op,
                                  const KeptOutputs::Compute& compute);
// The same before it is known what there is to compute: nothing if it has to be computed.
std::vector<Tensor> computed_before(const Context& ctx, KeptOp op);

}  // namespace longship
