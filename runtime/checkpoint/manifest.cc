#include "runtime/checkpoint/manifest.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <limits>

#include "runtime/checkpoint/manifest.pb.h"
#include "runtime/io/checksum.h"
#include "runtime/io/file_descriptor.h"

namespace longship {
namespace {

constexpr uint32_t kSchemaVersion = 1;

manifest::DType to_proto(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return manifest::DTYPE_FP32;
    case DType::kBF16:
      return manifest::DTYPE_BF16;
    case DType::kF64:
      return manifest::DTYPE_FP64;
    case DType::kI32:
      return manifest::DTYPE_I32;
    case DType::kI64:
      return manifest::DTYPE_I64;
    case DType::kU8:
      return manifest::DTYPE_U8;
  }
  return manifest::DTYPE_UNSPECIFIED;
}

// False for a value that is no dtype.
bool from_proto(manifest::DType proto, DType& dtype) {
  for (DType one : {DType::kF32, DType::kBF16, DType::kF64, DType::kI32, DType::kI64, DType::kU8})
    if (to_proto(one) == proto) {
      dtype = one;
      return true;
    }
  return false;
}

// Maps have no order of their own in protobuf; the deterministic mode sorts them.
std::string serialise(const google::protobuf::MessageLite& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    LONGSHIP_CHECK(message.SerializeToCodedStream(&coded), "a manifest cannot be serialised");
  }
  return bytes;
}

bool parse(google::protobuf::MessageLite& message, std::string_view bytes) {
  return bytes.size() <= static_cast<size_t>(std::numeric_limits<int>::max()) &&
         message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

void write_file(const CheckpointFile& file, manifest::File& proto) {
  proto.set_name(file.name);
  proto.set_num_bytes(file.num_bytes);
  proto.mutable_block_xxh3()->Assign(file.block_checksums.begin(), file.block_checksums.end());
}

CheckpointFile read_file(const manifest::File& proto) {
  return {proto.name(), proto.num_bytes(), {proto.block_xxh3().begin(), proto.block_xxh3().end()}};
}

void write_tensor(const CheckpointTensor& tensor, manifest::Tensor& proto) {
  proto.set_name(tensor.name);
  proto.set_dtype(to_proto(tensor.dtype));
  proto.mutable_shape()->Assign(tensor.shape.begin(), tensor.shape.end());
  for (const CheckpointSlice& slice : tensor.slices) {
    manifest::Slice& one = *proto.add_slices();
    one.mutable_begin()->Assign(slice.begin.begin(), slice.begin.end());
    one.mutable_extent()->Assign(slice.extent.begin(), slice.extent.end());
    one.set_file(static_cast<uint32_t>(slice.file));
    one.set_offset(slice.offset);
    one.set_num_bytes(slice.num_bytes);
    one.set_xxh3(slice.checksum);
  }
}

// False when the dtype is unknown; everything else is checked by layout_problem().
bool read_tensor(const manifest::Tensor& proto, CheckpointTensor& tensor) {
  tensor.name = proto.name();
  tensor.shape.assign(proto.shape().begin(), proto.shape().end());
  for (const manifest::Slice& one : proto.slices())
    tensor.slices.push_back({.begin = {one.begin().begin(), one.begin().end()},
                             .extent = {one.extent().begin(), one.extent().end()},
                             .file = one.file(),
                             .offset = one.offset(),
                             .num_bytes = one.num_bytes(),
                             .checksum = one.xxh3()});
  return from_proto(proto.dtype(), tensor.dtype);
}

[[noreturn]] void refuse(const std::filesystem::path& path, std::string found) {
  throw Error(ErrorCode::kCorrupt, {.what = fmt::format("{} is damaged", path.string()),
                                    .found = std::move(found),
                                    .next = "use an earlier checkpoint"});
}

}  // namespace

std::string seal_manifest(const CheckpointContent& content) {
  manifest::Manifest proto;
  proto.set_schema_version(kSchemaVersion);
  proto.set_step(content.header.step);
  proto.set_config_text(content.header.config_text);
  proto.mutable_integers()->insert(content.header.integers.begin(), content.header.integers.end());
  proto.mutable_strings()->insert(content.header.strings.begin(), content.header.strings.end());
  proto.mutable_mesh()->set_dp(content.header.dp);
  proto.mutable_mesh()->set_sp(content.header.sp);
  proto.mutable_versions()->insert(content.header.versions.begin(), content.header.versions.end());
  for (const CheckpointFile& file : content.files) write_file(file, *proto.add_files());
  for (const CheckpointTensor& tensor : content.tensors) write_tensor(tensor, *proto.add_tensors());

  manifest::SealedManifest sealed;
  sealed.set_manifest(serialise(proto));
  sealed.set_xxh3(checksum(bytes_of(sealed.manifest())));
  return serialise(sealed);
}

CheckpointContent unseal_manifest(std::string_view bytes, const std::filesystem::path& path) {
  manifest::SealedManifest sealed;
  if (!parse(sealed, bytes)) refuse(path, "no sealed manifest");
  // Serialising again finds changes that a parser skips, such as unknown fields.
  sealed.DiscardUnknownFields();
  if (serialise(sealed) != bytes) refuse(path, "no sealed manifest");
  if (checksum(bytes_of(sealed.manifest())) != sealed.xxh3()) refuse(path, "a wrong checksum");

  manifest::Manifest proto;
  if (!parse(proto, sealed.manifest())) refuse(path, "a manifest that cannot be parsed");
  if (proto.schema_version() > kSchemaVersion)
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("{} was written by a newer Longship", path.string()),
                 .expected = fmt::format("schema version {} at most", kSchemaVersion),
                 .found = fmt::format("schema version {}", proto.schema_version()),
                 .next = "use the version that wrote it, or a newer one"});
  if (proto.schema_version() == 0) refuse(path, "no schema version");

  CheckpointContent content;
  content.header = {.step = proto.step(),
                    .config_text = proto.config_text(),
                    .integers = {proto.integers().begin(), proto.integers().end()},
                    .strings = {proto.strings().begin(), proto.strings().end()},
                    .dp = proto.mesh().dp(),
                    .sp = proto.mesh().sp(),
                    .versions = {proto.versions().begin(), proto.versions().end()}};
  for (const manifest::File& file : proto.files()) content.files.push_back(read_file(file));
  for (const manifest::Tensor& tensor : proto.tensors())
    if (!read_tensor(tensor, content.tensors.emplace_back()))
      refuse(path, fmt::format("tensor {} with an unknown dtype", tensor.name()));
  std::string problem = layout_problem(content);
  if (!problem.empty()) refuse(path, std::move(problem));
  return content;
}

std::string serialise_part(const PartContent& part) {
  manifest::PartRecord proto;
  proto.set_part_index(part.part_index);
  write_file(part.file, *proto.mutable_file());
  for (const CheckpointTensor& tensor : part.tensors) write_tensor(tensor, *proto.add_tensors());
  return serialise(proto);
}

PartContent parse_part(std::string_view record) {
  manifest::PartRecord proto;
  LONGSHIP_CHECK(parse(proto, record), "a part record of {} bytes", record.size());
  PartContent part = {proto.part_index(), read_file(proto.file()), {}};
  for (const manifest::Tensor& tensor : proto.tensors())
    LONGSHIP_CHECK(read_tensor(tensor, part.tensors.emplace_back()), "dtype of tensor {}",
                   tensor.name());
  return part;
}

}  // namespace longship
