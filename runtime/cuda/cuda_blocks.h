// Blocks of a GPU's memory and of pinned host memory, which a GPU copies by itself.
#pragma once

#include "runtime/memory/block_source.h"

namespace longship {

// Of the GPU of `stream`, used and reused in the order of that stream.
std::unique_ptr<BlockSource> device_blocks(std::shared_ptr<const Stream> stream);

// Of the host, readable by every GPU. Pinning needs `gpu` to be there.
std::unique_ptr<BlockSource> pinned_blocks(Device gpu);

}  // namespace longship
