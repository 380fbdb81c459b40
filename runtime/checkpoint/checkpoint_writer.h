// Writing a checkpoint, in three moves that the caller spreads over its ranks:
//
//   rank 0     AtomicDirectory directory(root / checkpoint_name(step));   // tell the others its
//                                                                         // temporary_path()
//   each rank  std::string record = write_part(temporary_path, rank, my tensors);
//   rank 0     commit_checkpoint(directory, header, all records);         // appears by rename
//
// Until the last line nothing but a temporary folder exists, which ~AtomicDirectory removes.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "runtime/checkpoint/checkpoint_header.h"
#include "runtime/io/atomic_directory.h"
#include "runtime/named_tensor.h"

namespace longship {

// One box of a tensor that several writers share.
struct NamedSlice {
  NamedTensor slice;   // name of the whole tensor, elements of the box
  Shape begin;         // of its first element in the whole tensor
  Shape global_shape;  // of the whole tensor
};

// Writes `part_<index>.safetensors` with whole tensors and slices, durable when it returns.
// Returns the serialised record (PartRecord of manifest.proto) that commit_checkpoint() needs.
// A part without tensors is legal. A whole tensor's name may appear once in a part, and each of its
// slices once: in the file it is called "name[begin, ...]". Throws Error(kStorage).
std::string write_part(const std::filesystem::path& temporary_path, int64_t part_index,
                       std::span<const NamedTensor> tensors,
                       std::span<const NamedSlice> slices = {});

// Writes MANIFEST.pb from the records of all parts and commits the folder; a checkpoint of that
// name that exists is replaced. Throws Error(kInternal) when the parts do not cover each tensor
// exactly once, Error(kStorage) when the file system refuses.
void commit_checkpoint(AtomicDirectory& directory, const CheckpointHeader& header,
                       std::span<const std::string> part_records);

}  // namespace longship
