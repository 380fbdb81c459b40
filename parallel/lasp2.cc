// "lasp2": an all-gather of maps, then every rank folds those before its own.
#include <numeric>

#include "parallel/affine_compose.h"
#include "parallel/attention_shape.h"
#include "parallel/state_links.h"
#include "parallel/state_schedule.h"

namespace longship {
namespace {

// One map, flat as it travels: M of all heads, then B.
struct Record {
  Transition transition;
  Shape m_shape, b_shape;  // of one segment

  int64_t m_size() const { return transition == Transition::kIdentity ? 0 : num_elements(m_shape); }
  int64_t size() const { return m_size() + num_elements(b_shape); }

  static Record of(const AffineSummary& summary) {
    auto row = [](const Tensor& rows) {
      return rows.defined() ? Shape(rows.shape().begin() + 1, rows.shape().end()) : Shape();
    };
    return {summary.transition, row(summary.m), row(summary.b_NHKV)};
  }
  AffineMap map(const Tensor& flat) const {
    return {.transition = transition,
            .m = m_size() > 0 ? flat.slice(0, 0, m_size()).reshape(m_shape) : Tensor(),
            .b_HKV = flat.slice(0, m_size(), num_elements(b_shape)).reshape(b_shape)};
  }
};

class Lasp2States final : public PendingStates {
 public:
  Lasp2States(const Context& ctx, const Group& sp, const AffineSummary& summary,
              const SequencePlan& plan, ScanDirection direction)
      : ctx_(ctx), direction_(direction), record_(Record::of(summary)) {
    states_NHKV_ = ctx.zeros(summary.b_NHKV.shape(), summary.b_NHKV.dtype());
    const std::vector<StateLink> links = state_links(plan, direction);
    if (links.empty()) return;

    // Records lie in the order of their senders, those of one sender in the order of the links.
    std::vector<int64_t> rows(static_cast<size_t>(plan.num_ranks()));
    for (const StateLink& link : links) ++rows[static_cast<size_t>(link.from_rank)];
    std::vector<int64_t> next_record(rows.size());
    std::exclusive_scan(rows.begin(), rows.end(), next_record.begin(), int64_t{0});
    for (int64_t& count : rows) count *= record_.size();

    const DType dtype = states_NHKV_.dtype();
    const Tensor own = ctx.empty({rows[static_cast<size_t>(plan.rank())]}, dtype);
    int64_t packed = 0;
    for (const StateLink& link : links) {
      folds_.push_back({.record = next_record[static_cast<size_t>(link.from_rank)]++,
                        .starts = link.depth == 0,
                        .row = link.to_rank == plan.rank() ? link.to : -1});
      if (link.from_rank != plan.rank()) continue;
      const AffineMap from = map_of(summary, link.from);
      const AffineMap to = record_.map(own.slice(0, packed, record_.size()));
      if (to.m.defined()) to.m.copy_from(from.m);
      to.b_HKV.copy_from(from.b_HKV);
      packed += record_.size();
    }
    gathered_ = ctx.empty({std::ssize(links) * record_.size()}, dtype);
    work_ = sp.all_gather(direction == ScanDirection::kForward ? "lasp2.fwd" : "lasp2.bwd", own,
                          gathered_, rows);
  }

  Tensor wait() override {
    work_.wait();
    // A document is folded no further than to its last segment here.
    std::vector<bool> needed(folds_.size() + 1, false);
    for (size_t i = folds_.size(); i-- > 0;) {
      const bool is_last = i + 1 == folds_.size() || folds_[i + 1].starts;
      needed[i] = folds_[i].row >= 0 || (!is_last && needed[i + 1]);
    }
    Tensor scratch_HKV[2], state_HKV;
    for (Tensor& scratch : scratch_HKV) scratch = ctx_.empty(record_.b_shape, states_NHKV_.dtype());
    for (size_t i = 0; i < folds_.size(); ++i) {
      const Fold& fold = folds_[i];
      if (!needed[i]) continue;
      const Tensor next_HKV = fold.row >= 0
                                  ? states_NHKV_.slice(0, fold.row, 1).reshape(record_.b_shape)
                                  : scratch_HKV[i % 2];
      const Tensor flat = gathered_.slice(0, fold.record * record_.size(), record_.size());
      apply(ctx_, record_.map(flat), direction_, fold.starts ? Tensor() : state_HKV, next_HKV);
      state_HKV = next_HKV;
    }
    return std::move(states_NHKV_);
  }

 private:
  struct Fold {
    int64_t record;  // the map of the segment before
    bool starts;     // whether that is the first of its document
    int64_t row;     // of its state here, or -1 on other ranks
  };

  Context ctx_;
  ScanDirection direction_;
  Record record_;
  std::vector<Fold> folds_;  // in the order of the links
  Tensor gathered_;
  Tensor states_NHKV_;
  Work work_;
};

class Lasp2 final : public StateSchedule {
 public:
  explicit Lasp2(Group sp) : sp_(std::move(sp)) {}

  std::unique_ptr<PendingStates> carry(Context& ctx, SegmentMaps& maps, const SequencePlan& plan,
                                       ScanDirection direction) const override {
    check_plan_matches(plan, sp_);
    return std::make_unique<Lasp2States>(ctx, sp_, checked_summary(maps.summary(ctx), plan), plan,
                                         direction);
  }

 private:
  Group sp_;
};

}  // namespace

std::unique_ptr<StateSchedule> make_lasp2(Group sp) {
  return std::make_unique<Lasp2>(std::move(sp));
}

}  // namespace longship
