// Every operation of Group against values that each rank can compute by itself.
// ranks: 1 2 3 4 8
#include "parallel/group.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::world;

const std::shared_ptr<Memory> kMemory = std::make_shared<Memory>();

// The value that every test gives to element i of what rank `from` has for rank `to`.
int64_t mark(int from, int to, int64_t i) {
  return (from * 31 + to * 7 + i) % 113;
}

template <class T>
T as(int64_t value) {
  return static_cast<T>(static_cast<float>(value));
}

template <class T>
double as_double(T value) {
  return static_cast<double>(static_cast<float>(value));
}

// Rows from rank a to rank b: uneven, and zero for some pairs.
int64_t uneven_rows(int a, int b) {
  return (a * 3 + b * 5) % 4;
}

template <class T>
class GroupOfType : public ::testing::Test {};
using AllTypes = ::testing::Types<float, bf16, double, int32_t, int64_t, uint8_t>;
TYPED_TEST_SUITE(GroupOfType, AllTypes);

TYPED_TEST(GroupOfType, AllToAllMovesUnevenRows) {
  using T = TypeParam;
  const Group group = world();
  const int rank = group.rank(), size = group.size();
  constexpr int64_t kWidth = 3;
  std::vector<int64_t> send_rows, receive_rows;
  for (int peer = 0; peer < size; ++peer) {
    send_rows.push_back(uneven_rows(rank, peer));
    receive_rows.push_back(uneven_rows(peer, rank));
  }
  auto total = [](const std::vector<int64_t>& rows) {
    return std::accumulate(rows.begin(), rows.end(), int64_t{0});
  };
  const Tensor send = Tensor::empty(kMemory, {total(send_rows), kWidth}, DTypeOf<T>::value);
  const Tensor receive = Tensor::empty(kMemory, {total(receive_rows), kWidth}, DTypeOf<T>::value);
  T* out = send.data<T>();
  for (int peer = 0; peer < size; ++peer)
    for (int64_t i = 0; i < uneven_rows(rank, peer) * kWidth; ++i)
      *out++ = as<T>(mark(rank, peer, i));
  group.reset_stats();
  group.all_to_all("test.a2a", send, send_rows, receive, receive_rows).wait();
  const T* in = receive.data<T>();
  for (int peer = 0; peer < size; ++peer)
    for (int64_t i = 0; i < uneven_rows(peer, rank) * kWidth; ++i)
      ASSERT_EQ(as_double(*in++), static_cast<double>(mark(peer, rank, i))) << "from " << peer;
  const int64_t leaving = total(send_rows) - uneven_rows(rank, rank);
  EXPECT_EQ(group.stats().sent_bytes("test.a2a"), leaving * kWidth * dtype_size(DTypeOf<T>::value));
}

TYPED_TEST(GroupOfType, AllGatherConcatenatesUnevenRows) {
  using T = TypeParam;
  const Group group = world();
  const int rank = group.rank(), size = group.size();
  std::vector<int64_t> rows;
  for (int peer = 0; peer < size; ++peer) rows.push_back((peer * 5 + 2) % 3);  // 2 1 0 2 1 0 ...
  const int64_t own = rows[static_cast<size_t>(rank)];
  const Tensor send = Tensor::empty(kMemory, {own, 2}, DTypeOf<T>::value);
  for (int64_t i = 0; i < own * 2; ++i) send.data<T>()[i] = as<T>(mark(rank, 0, i));
  const int64_t total = std::accumulate(rows.begin(), rows.end(), int64_t{0});
  const Tensor receive = Tensor::empty(kMemory, {total, 2}, DTypeOf<T>::value);
  group.reset_stats();
  group.all_gather("test.gather", send, receive, rows).wait();
  const T* in = receive.data<T>();
  for (int peer = 0; peer < size; ++peer)
    for (int64_t i = 0; i < rows[static_cast<size_t>(peer)] * 2; ++i)
      ASSERT_EQ(as_double(*in++), static_cast<double>(mark(peer, 0, i))) << "from " << peer;
  EXPECT_EQ(group.stats().sent_bytes("test.gather"), (size - 1) * send.num_bytes());
}

TYPED_TEST(GroupOfType, BroadcastReachesEveryRankFromEveryRoot) {
  using T = TypeParam;
  const Group group = world();
  for (int root = 0; root < group.size(); ++root) {
    const Tensor tensor = Tensor::empty(kMemory, {5}, DTypeOf<T>::value);
    for (int64_t i = 0; i < 5; ++i) tensor.data<T>()[i] = as<T>(mark(group.rank(), root, i));
    group.reset_stats();
    group.broadcast("test.broadcast", tensor, root).wait();
    for (int64_t i = 0; i < 5; ++i)
      ASSERT_EQ(as_double(tensor.data<T>()[i]), static_cast<double>(mark(root, root, i)));
    EXPECT_EQ(group.stats().sent_bytes("test.broadcast"),
              group.rank() == root ? (group.size() - 1) * tensor.num_bytes() : 0);
  }
}

TYPED_TEST(GroupOfType, ExchangeShiftsAroundTheRing) {
  using T = TypeParam;
  const Group group = world();
  const int rank = group.rank(), size = group.size();
  const int next = (rank + 1) % size, previous = (rank + size - 1) % size;
  const Tensor first = Tensor::empty(kMemory, {4}, DTypeOf<T>::value);
  const Tensor second = Tensor::empty(kMemory, {2}, DTypeOf<T>::value);
  for (int64_t i = 0; i < 4; ++i) first.data<T>()[i] = as<T>(mark(rank, next, i));
  for (int64_t i = 0; i < 2; ++i) second.data<T>()[i] = as<T>(mark(rank, next, i + 4));
  const Tensor from_first = Tensor::empty(kMemory, {4}, DTypeOf<T>::value);
  const Tensor from_second = Tensor::empty(kMemory, {2}, DTypeOf<T>::value);
  const Tensor nothing = Tensor::empty(kMemory, {0}, DTypeOf<T>::value);
  group
      .exchange("test.shift",
                {P2P::send(next, first), P2P::send(next, second),
                 P2P::receive(previous, from_first), P2P::send(next, nothing),
                 P2P::receive(previous, from_second), P2P::receive(previous, nothing)})
      .wait();
  for (int64_t i = 0; i < 4; ++i)
    ASSERT_EQ(as_double(from_first.data<T>()[i]), static_cast<double>(mark(previous, rank, i)));
  for (int64_t i = 0; i < 2; ++i)
    ASSERT_EQ(as_double(from_second.data<T>()[i]),
              static_cast<double>(mark(previous, rank, i + 4)));
}

// Row counts by sender and receiver: none, one and odd ones.
int64_t message_rows(int from, int to) {
  return std::vector<int64_t>{0, 1, 7, 3}[static_cast<size_t>((from * 2 + to) % 4)];
}

// Columns of a wider tensor are sent and received where they lie, by either side or by both, also
// to this rank itself.
TYPED_TEST(GroupOfType, ExchangeTakesRowsThatLieApart) {
  using T = TypeParam;
  const Group group = world();
  const int rank = group.rank(), size = group.size();
  const auto untouched = as<T>(119);
  const auto filled = [&](Shape shape) {
    Tensor tensor = Tensor::empty(kMemory, std::move(shape), DTypeOf<T>::value);
    std::fill_n(tensor.data<T>(), tensor.numel(), untouched);
    return tensor;
  };
  struct Message {
    Tensor whole;  // [rows, 5, 3], of which columns [1, 3) are received, or just these
    int peer, round;
  };
  std::vector<Message> received;
  std::vector<P2P> batch;
  int64_t sent_bytes = 0;
  for (int round = 0; round < 4; ++round) {
    const bool sends_columns = round % 2 == 0, receives_columns = round < 2;
    for (int peer = 0; peer < size; ++peer) {
      const int64_t num_sent = message_rows(rank, peer), num_received = message_rows(peer, rank);
      const Tensor wide = filled({num_sent, 4, 3});
      const Tensor out = sends_columns ? wide.slice(1, 2, 2) : filled({num_sent * 6});
      for (int64_t i = 0; i < num_sent * 6; ++i)
        out.data<T>()[sends_columns ? i / 6 * 12 + i % 6 : i] = as<T>(mark(rank, peer, round + i));
      batch.push_back(P2P::send(peer, out));
      if (peer != rank) sent_bytes += num_sent * 6 * dtype_size(DTypeOf<T>::value);
      received.push_back({filled({num_received, receives_columns ? 5 : 2, 3}), peer, round});
      const Tensor& in = received.back().whole;
      batch.push_back(P2P::receive(peer, receives_columns ? in.slice(1, 1, 2) : in));
    }
  }
  group.reset_stats();
  group.exchange("test.rows", std::move(batch)).wait();
  EXPECT_EQ(group.stats().sent_bytes("test.rows"), sent_bytes);
  for (const Message& message : received) {
    const Tensor& whole = message.whole;
    const T* const elements = whole.data<T>();
    const int64_t width = 3 * whole.dim(1), begin = width > 6 ? 3 : 0;
    for (int64_t i = 0; i < whole.numel(); ++i) {
      const int64_t row = i / width, column = i % width - begin;
      const bool is_message = column >= 0 && column < 6;
      const T expected = is_message
                             ? as<T>(mark(message.peer, rank, message.round + row * 6 + column))
                             : untouched;
      ASSERT_EQ(as_double(elements[i]), as_double(expected))
          << "element " << i << " from " << message.peer << " in round " << message.round;
    }
  }
}

template <class T>
class GroupOfSummable : public ::testing::Test {};
using SummableTypes = ::testing::Types<float, double, int32_t, int64_t>;
TYPED_TEST_SUITE(GroupOfSummable, SummableTypes);

// Small and large sizes take different paths; 1027 * 8 bytes and more are large, 5 elements leave
// ranks of a group of 8 without a chunk.
TYPED_TEST(GroupOfSummable, AllReduceSumsAndFindsExtremes) {
  using T = TypeParam;
  const Group group = world();
  const int size = group.size();
  for (int64_t count : {0, 1, 5, 1027, 40009}) {
    for (ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin}) {
      const Tensor tensor = Tensor::empty(kMemory, {count}, DTypeOf<T>::value);
      for (int64_t i = 0; i < count; ++i)
        tensor.data<T>()[i] = as<T>(mark(group.rank(), 1, i) - 50);
      group.all_reduce("test.reduce", tensor, op).wait();
      for (int64_t i = 0; i < count; ++i) {
        int64_t expected = mark(0, 1, i) - 50;
        for (int peer = 1; peer < size; ++peer) {
          const int64_t value = mark(peer, 1, i) - 50;
          expected = op == ReduceOp::kSum   ? expected + value
                     : op == ReduceOp::kMax ? std::max(expected, value)
                                            : std::min(expected, value);
        }
        ASSERT_EQ(tensor.data<T>()[i], as<T>(expected)) << "element " << i << " of " << count;
      }
    }
  }
}

TEST(Group, ReduceScatterSumsUnevenRowsInRankOrder) {
  const Group group = world();
  const int rank = group.rank(), size = group.size();
  std::vector<int64_t> rows;
  for (int peer = 0; peer < size; ++peer) rows.push_back((peer + 1) % 3 * 7);
  const int64_t total = std::accumulate(rows.begin(), rows.end(), int64_t{0});
  auto value = [](int from, int64_t i) {
    return static_cast<float>(normal(5, static_cast<uint64_t>(from), static_cast<uint64_t>(i)));
  };
  const Tensor send = Tensor::empty(kMemory, {total, 3}, DType::kF32);
  for (int64_t i = 0; i < total * 3; ++i) send.data<float>()[i] = value(rank, i);
  const int64_t own = rows[static_cast<size_t>(rank)];
  const Tensor receive = Tensor::empty(kMemory, {own, 3}, DType::kF32);
  group.reset_stats();
  group.reduce_scatter("test.rs", send, receive, rows).wait();
  const int64_t begin = std::accumulate(rows.begin(), rows.begin() + rank, int64_t{0}) * 3;
  for (int64_t i = 0; i < own * 3; ++i) {
    float expected = value(0, begin + i);
    for (int peer = 1; peer < size; ++peer) expected += value(peer, begin + i);
    ASSERT_EQ(receive.data<float>()[i], expected) << "element " << i;
  }
  EXPECT_EQ(group.stats().sent_bytes("test.rs"), (total - own) * 3 * 4);
}

TEST(Group, AllReduceGivesEveryRankTheBitsOfTheSumInRankOrder) {
  const Group group = world();
  for (int64_t count : {int64_t{100}, int64_t{5003}}) {
    auto value = [&](int from, int64_t i) {
      return static_cast<float>(normal(9, static_cast<uint64_t>(from), static_cast<uint64_t>(i)));
    };
    const Tensor tensor = Tensor::empty(kMemory, {count}, DType::kF32);
    for (int64_t i = 0; i < count; ++i) tensor.data<float>()[i] = value(group.rank(), i);
    group.all_reduce("test.bits", tensor).wait();
    for (int64_t i = 0; i < count; ++i) {
      float expected = value(0, i);
      for (int peer = 1; peer < group.size(); ++peer) expected += value(peer, i);
      ASSERT_EQ(tensor.data<float>()[i], expected) << "element " << i << " of " << count;
    }
    const std::string bits(reinterpret_cast<const char*>(tensor.raw()),
                           static_cast<size_t>(tensor.num_bytes()));
    for (const std::string& other : group.all_gather_bytes("test.compare", bits))
      ASSERT_EQ(std::memcmp(bits.data(), other.data(), bits.size()), 0);
  }
}

TEST(Group, AllReduceCountsBytesByItsFormula) {
  const Group group = world();
  const int64_t size = group.size(), rank = group.rank();
  for (int64_t count : {int64_t{1024}, int64_t{1025}, int64_t{100003}}) {
    const Tensor tensor = Tensor::zeros(kMemory, {count}, DType::kF32);
    group.reset_stats();
    group.all_reduce("test.bytes", tensor).wait();
    const int64_t chunk = count * (rank + 1) / size - count * rank / size;
    const int64_t expected =
        count <= 1024 ? (size - 1) * count * 4 : ((count - chunk) + (size - 1) * chunk) * 4;
    EXPECT_EQ(group.stats().sent_bytes("test.bytes"), expected) << count;
    EXPECT_EQ(group.stats().by_label.at("test.bytes").num_calls, 1);
    EXPECT_EQ(group.stats().total_sent_bytes(), expected);
  }
}

TEST(Group, ExtremesKeepNaN) {
  const Group group = world();
  const double mine = group.rank() == group.size() / 2 ? std::nan("") : group.rank();
  EXPECT_TRUE(std::isnan(group.all_reduce_value("test.nan", mine, ReduceOp::kMax)));
  EXPECT_TRUE(std::isnan(group.all_reduce_value("test.nan", mine, ReduceOp::kMin)));
}

TEST(Group, ValuesAndBytesReachEveryRank) {
  const Group group = world();
  const int64_t size = group.size();
  EXPECT_EQ(group.all_reduce_value("test.value", int64_t{group.rank()} + 1, ReduceOp::kSum),
            size * (size + 1) / 2);
  EXPECT_EQ(group.all_reduce_value("test.value", 0.5 * group.rank(), ReduceOp::kMax),
            0.5 * static_cast<double>(size - 1));
  auto text = [](int rank) { return std::string(static_cast<size_t>(rank % 3 * 100), 'a' + rank); };
  const auto all = group.all_gather_bytes("test.text", text(group.rank()));
  ASSERT_EQ(std::ssize(all), size);
  for (int peer = 0; peer < size; ++peer) EXPECT_EQ(all[static_cast<size_t>(peer)], text(peer));
  for (int root = 0; root < size; ++root)
    EXPECT_EQ(group.broadcast_bytes("test.root", text(group.rank()), root), text(root));
  // A length and the bytes to every other rank; nothing else.
  group.reset_stats();
  const std::string zeros = group.broadcast_bytes(
      "test.zeros", group.rank() == 0 ? std::string(5, '\0') : std::string(9, 'x'), 0);
  EXPECT_EQ(zeros, std::string(5, '\0'));
  EXPECT_EQ(group.stats().sent_bytes("test.zeros"), group.rank() == 0 ? (size - 1) * (8 + 5) : 0);
}

TEST(Group, RefusesTensorsThatDoNotFit) {
  const Group group = world();
  const int rank = group.rank();
  const auto size = static_cast<size_t>(group.size());
  auto refuses = [](const std::string& named, auto&& call) {
    testing::expect_error(ErrorCode::kInternal, {named}, call);
  };
  const Tensor matrix = Tensor::zeros(kMemory, {4, 6}, DType::kF32);
  const Tensor columns = matrix.transpose(0, 1);
  refuses("reduced tensor", [&] { group.all_reduce("bad", columns); });
  refuses("reduced tensor", [&] { group.all_reduce("bad", Tensor()); });
  refuses("cannot be reduced", [&] { group.all_reduce("bad", matrix.to(DType::kBF16)); });
  refuses("root", [&] { group.broadcast("bad", matrix, group.size()); });
  refuses("peer -1", [&] { group.exchange("bad", {P2P::send(-1, matrix)}); });
  refuses("receives 0", [&] { group.exchange("bad", {P2P::send(rank, matrix)}); });
  refuses("rows contiguous", [&] {
    group.exchange("bad", {P2P::send(rank, columns), P2P::receive(rank, columns.clone())});
  });
  refuses("[4, 2] to itself", [&] {  // rows apart on both sides, of different lengths
    const Tensor others = Tensor::zeros(kMemory, {2, 6}, DType::kF32).slice(1, 0, 4);
    group.exchange("bad", {P2P::send(rank, matrix.slice(1, 0, 2)), P2P::receive(rank, others)});
  });
  refuses("color -1", [&] { group.split(-1, 0); });
  const std::vector<int64_t> rows(size, 1), more(size + 1, 1), negative(size, -1), twice(size, 2);
  const Tensor row = Tensor::zeros(kMemory, {1, 6}, DType::kF32);
  const Tensor all = Tensor::zeros(kMemory, {group.size(), 6}, DType::kF32);
  const Tensor narrow = Tensor::zeros(kMemory, {group.size(), 5}, DType::kF32);
  refuses("row counts for", [&] { group.all_gather("bad", row, all, more); });
  refuses("differ", [&] { group.all_gather("bad", row, narrow, rows); });
  refuses("announced 1", [&] { group.all_gather("bad", row.slice(0, 0, 0), all, rows); });
  refuses("negative", [&] { group.all_to_all("bad", all, negative, all, rows); });
  refuses("sum to", [&] { group.reduce_scatter("bad", all, all, twice); });
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
