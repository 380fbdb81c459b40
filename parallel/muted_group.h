// A group without communication, for timing: what a schedule takes with it, less what it takes
// without, is the communication that its computation does not hide.
#pragma once

#include "parallel/group.h"

namespace longship {

// As `group`: same rank, size and device, but operations on tensors move nothing and are done at
// once. What they should have brought is left as it was. Bytes and calls are counted apart from
// those of `group`. Only for timing: results mean nothing.
Group muted(const Group& group);

}  // namespace longship
