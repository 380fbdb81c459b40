#include "runtime/ops/split.h"

namespace longship {
namespace {

Shape with_last(Shape shape, int64_t size) {
  shape.back() = size;
  return shape;
}

// Calls f(i, begin) for each part, where it begins.
template <class F>
void for_each_part(std::span<const int64_t> sizes, F&& f) {
  int64_t begin = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    f(i, begin);
    begin += sizes[i];
  }
}

std::vector<Tensor> parts_of(const Tensor& x, std::span<const int64_t> sizes) {
  std::vector<Tensor> parts;
  for_each_part(sizes, [&](size_t i, int64_t begin) {
    parts.push_back(x.slice(x.rank() - 1, begin, sizes[i]).clone());
  });
  return parts;
}

struct SplitNode final : Node {
  Shape x_shape;
  std::vector<int64_t> sizes;

  const char* name() const override { return "split"; }

  void backward(Context& ctx) override {
    const Tensor dx = ctx.empty(x_shape, input(0)->dtype());
    for_each_part(sizes, [&](size_t i, int64_t begin) {
      dx.slice(dx.rank() - 1, begin, sizes[i]).copy_from(grad_output(ctx, i));
    });
    input(0)->add(ctx, dx);
  }

  void visit_saved(const SavedVisitor&) override {}
};

struct JoinNode final : Node {
  std::vector<int64_t> sizes;

  const char* name() const override { return "join"; }

  void backward(Context& ctx) override {
    const Tensor dy = grad_output(ctx);
    for_each_part(sizes, [&](size_t i, int64_t begin) {
      if (input(i)) input(i)->add(ctx, dy.slice(dy.rank() - 1, begin, sizes[i]).clone());
    });
  }

  void visit_saved(const SavedVisitor&) override {}
};

}  // namespace

std::vector<Variable> split(Context& ctx, const Variable& x, std::span<const int64_t> sizes) {
  LONGSHIP_CHECK(x.value().rank() > 0, "split of {}", shape_string(x.shape()));
  int64_t total = 0;
  for (int64_t size : sizes) {
    LONGSHIP_CHECK(size >= 0, "split of {} into {}", shape_string(x.shape()),
                   fmt::join(sizes, "+"));
    total += size;
  }
  LONGSHIP_CHECK(total == x.dim(-1), "split of {} into {}", shape_string(x.shape()),
                 fmt::join(sizes, "+"));
  std::unique_ptr<SplitNode> node;
  if (is_recording(ctx, {&x})) {
    node = std::make_unique<SplitNode>();
    node->x_shape = x.shape();
    node->sizes.assign(sizes.begin(), sizes.end());
  }
  return record(ctx, "split", parts_of(x.value(), sizes), std::move(node), {&x});
}

Variable join(Context& ctx, const std::vector<Variable>& parts) {
  LONGSHIP_CHECK(!parts.empty() && parts.front().value().rank() > 0, "join of {} parts",
                 parts.size());
  std::vector<int64_t> sizes;
  int64_t total = 0;
  bool recording = false;
  for (const Variable& part : parts) {
    LONGSHIP_CHECK(part.dtype() == parts.front().dtype() &&
                       with_last(part.shape(), 0) == with_last(parts.front().shape(), 0),
                   "join of {} {} and {} {}", dtype_name(parts.front().dtype()),
                   shape_string(parts.front().shape()), dtype_name(part.dtype()),
                   shape_string(part.shape()));
    sizes.push_back(part.dim(-1));
    total += sizes.back();
    recording |= is_recording(ctx, {&part});
  }
  const Tensor y = ctx.empty(with_last(parts.front().shape(), total), parts.front().dtype());
  for_each_part(sizes, [&](size_t i, int64_t begin) {
    y.slice(y.rank() - 1, begin, sizes[i]).copy_from(parts[i].value());
  });
  std::unique_ptr<JoinNode> node;
  if (recording) {
    node = std::make_unique<JoinNode>();
    node->sizes = std::move(sizes);
  }
  return record(ctx, "join", {y}, std::move(node), parts).front();
}

}  // namespace longship
