#include "parallel/collective_ops.h"

#include <algorithm>
#include <numeric>

#include "runtime/parallel_for.h"

namespace longship {
namespace {

int64_t sum_of(const std::vector<int64_t>& rows) {
  return std::accumulate(rows.begin(), rows.end(), int64_t{0});
}

Shape with_rows(Shape shape, int64_t rows) {
  LONGSHIP_CHECK(!shape.empty(), "a collective over rows needs at least one dimension");
  shape[0] = rows;
  return shape;
}

std::string grad_label(const std::string& label) {
  return label + ".grad";
}

// Each op on plain tensors, as the forward of one op and the adjoint of another.

Tensor move_rows(Context& ctx, const Group& group, const std::string& label, const Tensor& x,
                 const std::vector<int64_t>& send_rows, const std::vector<int64_t>& receive_rows) {
  const Tensor y = ctx.empty(with_rows(x.shape(), sum_of(receive_rows)), x.dtype());
  group.all_to_all(label, x.contiguous(), send_rows, y, receive_rows).wait();
  return y;
}

Tensor gather_rows(Context& ctx, const Group& group, const std::string& label, const Tensor& x,
                   const std::vector<int64_t>& rows) {
  const Tensor y = ctx.empty(with_rows(x.shape(), sum_of(rows)), x.dtype());
  group.all_gather(label, x.contiguous(), y, rows).wait();
  return y;
}

Tensor sum_own_rows(Context& ctx, const Group& group, const std::string& label, const Tensor& x,
                    const std::vector<int64_t>& rows) {
  const Tensor terms = x.to(accumulator_dtype(x.dtype())).contiguous();
  const int64_t own_rows = rows[static_cast<size_t>(group.rank())];
  const Tensor sum = ctx.empty(with_rows(x.shape(), own_rows), terms.dtype());
  group.reduce_scatter(label, terms, sum, rows).wait();
  return sum.to(x.dtype());
}

Tensor sum_over_ranks(Context& ctx, const Group& group, const std::string& label, const Tensor& x) {
  const Tensor sum = ctx.empty(x.shape(), accumulator_dtype(x.dtype()));
  sum.copy_from(x);
  group.all_reduce(label, sum).wait();
  return sum.to(x.dtype());
}

struct AllToAllNode final : Node {
  struct Saved {
    Group group;
    std::string label;
    std::vector<int64_t> send_rows, receive_rows;
  } saved;

  explicit AllToAllNode(Saved s) : saved(std::move(s)) {}
  const char* name() const override { return "all_to_all"; }
  void visit_saved(const SavedVisitor&) override {}
  void backward(Context& ctx) override {
    input(0)->add(ctx, move_rows(ctx, saved.group, grad_label(saved.label), grad_output(ctx),
                                 saved.receive_rows, saved.send_rows));
  }
};

struct AllGatherNode final : Node {
  struct Saved {
    Group group;
    std::string label;
    std::vector<int64_t> rows;
  } saved;

  explicit AllGatherNode(Saved s) : saved(std::move(s)) {}
  const char* name() const override { return "all_gather"; }
  void visit_saved(const SavedVisitor&) override {}
  void backward(Context& ctx) override {
    input(0)->add(
        ctx, sum_own_rows(ctx, saved.group, grad_label(saved.label), grad_output(ctx), saved.rows));
  }
};

struct ReduceScatterNode final : Node {
  struct Saved {
    Group group;
    std::string label;
    std::vector<int64_t> rows;
  } saved;

  explicit ReduceScatterNode(Saved s) : saved(std::move(s)) {}
  const char* name() const override { return "reduce_scatter"; }
  void visit_saved(const SavedVisitor&) override {}
  void backward(Context& ctx) override {
    input(0)->add(
        ctx, gather_rows(ctx, saved.group, grad_label(saved.label), grad_output(ctx), saved.rows));
  }
};

struct AllReduceNode final : Node {
  struct Saved {
    Group group;
    std::string label;
  } saved;

  explicit AllReduceNode(Saved s) : saved(std::move(s)) {}
  const char* name() const override { return "all_reduce"; }
  void visit_saved(const SavedVisitor&) override {}
  void backward(Context& ctx) override {
    input(0)->add(ctx, sum_over_ranks(ctx, saved.group, grad_label(saved.label), grad_output(ctx)));
  }
};

struct BroadcastNode final : Node {
  struct Saved {
    Group group;
    std::string label;
    int root;
  } saved;

  explicit BroadcastNode(Saved s) : saved(std::move(s)) {}
  const char* name() const override { return "broadcast"; }
  void visit_saved(const SavedVisitor&) override {}
  void backward(Context& ctx) override {
    // A reduce-scatter in which the root keeps everything.
    const Tensor grad_y = grad_output(ctx).contiguous();
    std::vector<int64_t> rows(static_cast<size_t>(saved.group.size()), 0);
    rows[static_cast<size_t>(saved.root)] = grad_y.numel();
    const Tensor sum = sum_own_rows(ctx, saved.group, grad_label(saved.label),
                                    grad_y.reshape({grad_y.numel()}), rows);
    input(0)->add(ctx, saved.group.rank() == saved.root ? sum.reshape(grad_y.shape())
                                                        : ctx.zeros(grad_y.shape(), sum.dtype()));
  }
};

// Adds `terms` to the rows of `sum` from `begin` on; `sum` is in the accumulator dtype.
void add_rows(Context& ctx, const Tensor& sum, int64_t begin, const Tensor& terms) {
  const Tensor rows = sum.slice(0, begin, terms.dim(0));
  dispatch_floating(terms.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    A* out = rows.data<A>();
    const T* term = terms.data<T>();
    parallel_for(ctx, terms.numel(), 1 << 14, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) out[i] += static_cast<A>(term[i]);
    });
  });
}

struct ExchangeRowsNode final : Node {
  struct Saved {
    Group group;
    std::string label;
    RowExchange plan;
    int64_t x_rows;
  } saved;

  explicit ExchangeRowsNode(Saved s) : saved(std::move(s)) {}
  const char* name() const override { return "exchange_rows"; }
  void visit_saved(const SavedVisitor&) override {}
  void backward(Context& ctx) override {
    const Tensor grad_y = grad_output(ctx).contiguous();
    std::vector<P2P> batch;
    std::vector<Tensor> terms;
    for (const RowTransfer& sent : saved.plan.send) {
      terms.push_back(ctx.empty(with_rows(grad_y.shape(), sent.length), grad_y.dtype()));
      batch.push_back(P2P::receive(sent.peer, terms.back()));
    }
    for (const RowTransfer& received : saved.plan.receive)
      batch.push_back(P2P::send(received.peer, grad_y.slice(0, received.begin, received.length)));
    saved.group.exchange(grad_label(saved.label), std::move(batch)).wait();
    const Tensor grad_x =
        ctx.zeros(with_rows(grad_y.shape(), saved.x_rows), accumulator_dtype(grad_y.dtype()));
    for (size_t i = 0; i < terms.size(); ++i)
      add_rows(ctx, grad_x, saved.plan.send[i].begin, terms[i]);
    input(0)->add(ctx, grad_x);
  }
};

// The rows of y: what is received must cover it without gap or overlap.
int64_t received_rows(const std::string& label, std::vector<RowTransfer> receive) {
  std::sort(receive.begin(), receive.end(), [](const RowTransfer& a, const RowTransfer& b) {
    return std::pair(a.begin, a.length) < std::pair(b.begin, b.length);
  });
  int64_t end = 0;
  for (const RowTransfer& transfer : receive) {
    LONGSHIP_CHECK(transfer.begin == end && transfer.length >= 0,
                   "`{}`: rows received at [{}, +{}) leave a gap or overlap at {}", label,
                   transfer.begin, transfer.length, end);
    end += transfer.length;
  }
  return end;
}

}  // namespace

Variable all_to_all(Context& ctx, const Group& group, const std::string& label, const Variable& x,
                    std::vector<int64_t> send_rows, std::vector<int64_t> receive_rows) {
  Tensor y = move_rows(ctx, group, label, x.value(), send_rows, receive_rows);
  std::unique_ptr<Node> node;
  if (is_recording(ctx, {&x}))
    node = std::make_unique<AllToAllNode>(
        AllToAllNode::Saved{group, label, std::move(send_rows), std::move(receive_rows)});
  return record(ctx, "all_to_all", std::move(y), std::move(node), {&x});
}

Variable all_gather(Context& ctx, const Group& group, const std::string& label, const Variable& x,
                    std::vector<int64_t> rows) {
  Tensor y = gather_rows(ctx, group, label, x.value(), rows);
  std::unique_ptr<Node> node;
  if (is_recording(ctx, {&x}))
    node = std::make_unique<AllGatherNode>(AllGatherNode::Saved{group, label, std::move(rows)});
  return record(ctx, "all_gather", std::move(y), std::move(node), {&x});
}

Variable reduce_scatter(Context& ctx, const Group& group, const std::string& label,
                        const Variable& x, std::vector<int64_t> rows) {
  Tensor y = sum_own_rows(ctx, group, label, x.value(), rows);
  std::unique_ptr<Node> node;
  if (is_recording(ctx, {&x}))
    node = std::make_unique<ReduceScatterNode>(
        ReduceScatterNode::Saved{group, label, std::move(rows)});
  return record(ctx, "reduce_scatter", std::move(y), std::move(node), {&x});
}

Variable all_reduce(Context& ctx, const Group& group, const std::string& label, const Variable& x) {
  Tensor y = sum_over_ranks(ctx, group, label, x.value());
  std::unique_ptr<Node> node;
  if (is_recording(ctx, {&x}))
    node = std::make_unique<AllReduceNode>(AllReduceNode::Saved{group, label});
  return record(ctx, "all_reduce", std::move(y), std::move(node), {&x});
}

Variable broadcast(Context& ctx, const Group& group, const std::string& label, const Variable& x,
                   int root) {
  Tensor y = group.rank() == root ? x.value().contiguous() : ctx.empty(x.shape(), x.dtype());
  group.broadcast(label, y, root).wait();
  std::unique_ptr<Node> node;
  if (is_recording(ctx, {&x}))
    node = std::make_unique<BroadcastNode>(BroadcastNode::Saved{group, label, root});
  return record(ctx, "broadcast", std::move(y), std::move(node), {&x});
}

Variable exchange_rows(Context& ctx, const Group& group, const std::string& label,
                       const Variable& x, RowExchange plan) {
  const Tensor packed = x.value().contiguous();
  Tensor y = ctx.empty(with_rows(x.shape(), received_rows(label, plan.receive)), x.dtype());
  std::vector<P2P> batch;
  for (const RowTransfer& transfer : plan.send)
    batch.push_back(P2P::send(transfer.peer, packed.slice(0, transfer.begin, transfer.length)));
  for (const RowTransfer& transfer : plan.receive)
    batch.push_back(P2P::receive(transfer.peer, y.slice(0, transfer.begin, transfer.length)));
  group.exchange(label, std::move(batch)).wait();
  std::unique_ptr<Node> node;
  if (is_recording(ctx, {&x}))
    node = std::make_unique<ExchangeRowsNode>(
        ExchangeRowsNode::Saved{group, label, std::move(plan), x.dim(0)});
  return record(ctx, "exchange_rows", std::move(y), std::move(node), {&x});
}

Variable shift(Context& ctx, const Group& group, const std::string& label, const Variable& x,
               const RowShift& by) {
  const int size = group.size();
  auto neighbour = [&](int64_t rank) {
    if (by.periodic) return static_cast<int>((rank % size + size) % size);
    return rank >= 0 && rank < size ? static_cast<int>(rank) : -1;
  };
  const int to = neighbour(int64_t{group.rank()} + by.distance);
  const int from = neighbour(int64_t{group.rank()} - by.distance);
  LONGSHIP_CHECK(from >= 0 || by.receive_rows == 0, "`{}`: rank {} expects {} rows from nobody",
                 label, group.rank(), by.receive_rows);
  RowExchange plan;
  if (to >= 0) plan.send.push_back({to, 0, x.dim(0)});
  if (from >= 0) plan.receive.push_back({from, 0, by.receive_rows});
  return exchange_rows(ctx, group, label, x, std::move(plan));
}

}  // namespace longship
