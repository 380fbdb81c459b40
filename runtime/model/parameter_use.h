// Who is told when a model is about to read a part of its parameters and when it has, so that they
// may be elsewhere in between, and when gradients are complete.
#pragma once

#include <cstddef>

#include "runtime/context.h"

namespace longship {

// A model cuts its list of parameters into units of what is read together, such as a block. The
// forward reads units in ascending order, though it may come back to the first in the end; the
// backward in descending order, though not all of them.
class ParameterUse {
 public:
  virtual ~ParameterUse() = default;

  // Ops read the values of `unit` between these. They may keep the tensors for their backward, as
  // long as they touch elements there between begin_backward() and end_backward() only.
  virtual void begin_forward(Context& ctx, size_t unit) = 0;
  virtual void end_forward(Context& ctx, size_t unit) = 0;

  // The backward of `unit`, which may run its forward again. Afterwards the gradients of this unit
  // and of all that follow it are complete, as far as this backward adds to them. Not called of a
  // unit whose backward reads no value (begin) or ends with the whole backward (end).
  virtual void begin_backward(Context& ctx, size_t unit) = 0;
  virtual void end_backward(Context& ctx, size_t unit) = 0;
};

}  // namespace longship
