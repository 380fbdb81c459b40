// Tensors on the host that come from a GPU or go there.
#pragma once

#include "runtime/context.h"

namespace longship {

// A context for tensors on the host; those that go to ctx's GPU or come from it are pinned. `ctx`
// itself, without its tape, where that is the host's.
Context host_context(const Context& ctx);

// A copy of `tensor` in the host's memory, complete once ctx.gpu->compute has done what it holds
// now; the tensor itself where that is the host's. The host does not wait.
Tensor start_download(const Context& ctx, const Tensor& tensor);

}  // namespace longship
