#include "launch/optimizer_options.h"

namespace longship {

AdamWOptions optimizer_options(const config::Optimizer& optim) {
  return {.beta1 = optim.beta1(),
          .beta2 = optim.beta2(),
          .epsilon = optim.eps(),
          .weight_decay = optim.weight_decay(),
          .bf16_moments = optim.bf16_moments()};
}

}  // namespace longship
