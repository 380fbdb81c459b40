// Checks the normalisation table inside a SentencePiece model, which the library follows without
// looking at bounds: a damaged model could make it read anywhere.
#pragma once

#include <cstddef>
#include <span>

namespace longship {

// `model`: the bytes of a model file. False when a table in it could lead outside itself. What is
// not a model at all is left to the library, which refuses it.
bool charsmaps_are_safe(std::span<const std::byte> model);

}  // namespace longship
