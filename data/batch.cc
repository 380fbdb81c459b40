#include "data/batch.h"

#include <utility>

#include "runtime/error.h"
#include "runtime/io/checksum.h"

namespace longship {
namespace {

// What makes a micro-batch what it is: the pieces with their tokens and loss masks.
class BatchHash {
 public:
  void add(const Piece& piece, const DocumentView& view) {
    const int64_t place[] = {piece.document, piece.begin, piece.length};
    hash_.update(std::as_bytes(std::span(place)));
    hash_.update(view.tokens.bytes());
    view.loss_mask.for_each_word(
        1, piece.length, [&](uint64_t word) { hash_.update(std::as_bytes(std::span(&word, 1))); });
  }
  uint64_t value() const { return hash_.value(); }

 private:
  Checksum hash_;
};

}  // namespace

BatchBuilder::BatchBuilder(std::shared_ptr<const TokenFile> file,
                           std::shared_ptr<const Packing> packing, const BatchSharding& sharding,
                           int64_t vocab_size, std::shared_ptr<Memory> memory)
    : file_(std::move(file)),
      packing_(std::move(packing)),
      sharding_(sharding),
      vocab_size_(vocab_size),
      memory_(std::move(memory)) {
  if (file_->vocab_size() > vocab_size_)
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("{} does not fit the model", file_->path()),
                 .expected = fmt::format("ids below the model's vocabulary size {}", vocab_size_),
                 .found = fmt::format("a vocabulary of {} ids ({})", file_->vocab_size(),
                                      file_->tokenizer_description()),
                 .next = "prepare the text with the model's tokenizer"});
}

std::vector<Piece> BatchBuilder::pieces(int64_t first_sample, int64_t num_samples) const {
  LONGSHIP_CHECK(first_sample >= 0 && num_samples > 0, "samples {}+{}", first_sample, num_samples);
  std::vector<Piece> all;
  for (int64_t n = first_sample; n < first_sample + num_samples; ++n) {
    const std::vector<Piece> sample = packing_->sample(n);
    all.insert(all.end(), sample.begin(), sample.end());
  }
  return all;
}

DocumentView BatchBuilder::inputs_and_targets(const Piece& piece) const {
  return file_->document(piece.document, piece.begin, piece.length + 1);
}

Batch BatchBuilder::build(int64_t first_sample, int64_t num_samples) const {
  const std::vector<Piece> pieces = this->pieces(first_sample, num_samples);
  std::vector<int64_t> cu_seqlens = {0};
  for (const Piece& piece : pieces) cu_seqlens.push_back(cu_seqlens.back() + piece.length);

  Batch batch;
  batch.first_sample = first_sample;
  batch.plan = SequencePlan::make(std::move(cu_seqlens), sharding_.layout, sharding_.num_ranks,
                                  sharding_.rank);
  std::vector<DocumentView> views;
  views.reserve(pieces.size());
  BatchHash hash;
  for (const Piece& piece : pieces) {
    views.push_back(inputs_and_targets(piece));
    const DocumentView& view = views.back();
    file_->check_ids(piece.document, piece.begin, view.tokens, vocab_size_);
    batch.num_loss_tokens += view.loss_mask.count(1, piece.length);
    hash.add(piece, view);
  }
  batch.token_hash = hash.value();

  const Shape shape = {batch.plan.num_local_tokens()};
  batch.tokens_T = Tensor::empty(memory_, shape, DType::kI32);
  batch.targets_T = Tensor::empty(memory_, shape, DType::kI32);
  batch.loss_weights_T = Tensor::empty(memory_, shape, DType::kF32);
  for (const Segment& segment : batch.plan.local_segments()) {
    const DocumentView& view = views[static_cast<size_t>(segment.document)];
    view.tokens.copy_to(batch.tokens_T.data<int32_t>() + segment.slot, segment.position,
                        segment.length);
    view.tokens.copy_to(batch.targets_T.data<int32_t>() + segment.slot, segment.position + 1,
                        segment.length);
    float* weights = batch.loss_weights_T.data<float>() + segment.slot;
    for (int64_t i = 0; i < segment.length; ++i)
      weights[i] = view.loss_mask[segment.position + 1 + i] ? 1.0f : 0.0f;
  }
  return batch;
}

int64_t BatchBuilder::num_loss_tokens(int64_t first_sample, int64_t num_samples) const {
  int64_t count = 0;
  for (const Piece& piece : pieces(first_sample, num_samples))
    count += file_->has_loss_mask() ? inputs_and_targets(piece).loss_mask.count(1, piece.length)
                                    : piece.length;
  return count;
}

}  // namespace longship
