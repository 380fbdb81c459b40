#include "attention/gpu_attention_limits.h"

#include "runtime/error.h"

namespace longship {

void require_gpu_attention(std::string_view where, const AttentionSizes& sizes) {
  auto refuse = [&](std::string expected, std::string found, std::string next) {
    throw Error(
        ErrorCode::kConfig,
        {.what = fmt::format("{}: softmax attention of this kind does not run on a GPU", where),
         .expected = std::move(expected),
         .found = std::move(found),
         .next = std::move(next)});
  };
  if (sizes.dtype != DType::kBF16)
    refuse("queries, keys and values in bf16", std::string(dtype_name(sizes.dtype)),
           "compute in bf16, or run on the CPU");
  if (sizes.num_kv_heads < 1 || sizes.num_heads % sizes.num_kv_heads != 0)
    refuse("a number of query heads that is a multiple of that of key/value heads",
           fmt::format("{} and {}", sizes.num_heads, sizes.num_kv_heads),
           "change the numbers of heads, or run on the CPU");
  auto fits = [](int64_t size) { return size >= 16 && size <= 256 && size % 16 == 0; };
  if (!fits(sizes.head_size) || !fits(sizes.value_size) || sizes.value_size > sizes.head_size)
    refuse("head sizes that are multiples of 16 up to 256, values no larger than keys",
           fmt::format("keys of {}, values of {}", sizes.head_size, sizes.value_size),
           "change the head sizes, or run on the CPU");
}

}  // namespace longship
