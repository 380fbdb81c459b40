#include "parallel/cuda/peer_copies.h"

#include <chrono>
#include <cstring>
#include <thread>

#include "parallel/cuda/cuda_driver.h"
#include "parallel/message_rows.h"

namespace longship {
namespace {

constexpr std::string_view kLabel = "gpu.peer_copies";
constexpr uint64_t kPosts = 32;  // buffers of a pair that may be known ahead of their messages
constexpr auto kSpin = std::chrono::microseconds(200);  // before the host's core is given away
// Ahead of every value that is waited for, and less than half of the circle of values.
constexpr uint32_t kFarAhead = uint32_t{1} << 30;

struct Post {
  PeerAddress address;
  MessageRows rows;
};

}  // namespace

// The receiver's side of messages from one rank to another, in memory of the host.
struct PeerCopies::Mailbox {
  alignas(64) std::atomic<uint64_t> num_posted;  // written by the receiver
  alignas(64) std::atomic<uint64_t> num_taken;   // written by the sender
  alignas(64) Post posts[kPosts];
};

PeerCopies::PeerCopies(Setup setup)
    : setup_(std::move(setup)),
      rank_(setup_.hosts.rank()),
      size_(setup_.hosts.size()),
      segment_(setup_.hosts, sizeof(Mailbox) * static_cast<size_t>(size_ * size_)),
      words_(Tensor::zeros(setup_.gpu->memory, {kNumWordKinds, size_}, DType::kI32)),
      mapped_(static_cast<size_t>(size_)),
      num_sent_(static_cast<size_t>(size_)),
      num_received_(static_cast<size_t>(size_)) {
  setup_.gpu->compute->synchronize();  // the zeros are there before anyone writes
  std::exception_ptr error;
  PeerAddress own;
  try {
    own = setup_.memory->address_of(words_.address());
  } catch (const Error&) {
    error = std::current_exception();
  }
  const std::string bytes(reinterpret_cast<const char*>(&own), sizeof own);
  const std::vector<std::string> all = setup_.hosts.all_gather_bytes(kLabel, bytes);
  for (int peer = 0; peer < size_ && error == nullptr; ++peer) {
    const auto p = static_cast<size_t>(peer);
    PeerAddress address;
    std::memcpy(&address, all[p].data(), sizeof address);
    if (peer == rank_ || address.allocation_bytes == 0) continue;
    try {
      mapped_[p] = setup_.memory->map(setup_.world_ranks[p], address);
    } catch (const Error&) {
      error = std::current_exception();
    }
  }
  const bool failed =
      setup_.hosts.all_reduce_value(kLabel, int64_t{error != nullptr}, ReduceOp::kMax) != 0;
  if (error != nullptr) std::rethrow_exception(error);
  if (failed)
    throw Error(ErrorCode::kConfig,
                {.what = "another rank of this host cannot map the memory of its peers' GPUs"});
}

uint32_t* PeerCopies::own_word(WordKind kind, int peer) const {
  return reinterpret_cast<uint32_t*>(words_.address()) + kind * size_ + peer;
}

uint32_t* PeerCopies::peer_word(WordKind kind, int peer) const {
  return reinterpret_cast<uint32_t*>(mapped_[static_cast<size_t>(peer)]) + kind * size_ + rank_;
}

PeerCopies::Mailbox& PeerCopies::mailbox(int from, int to) const {
  return reinterpret_cast<Mailbox*>(segment_.data())[from * size_ + to];
}

std::string PeerCopies::rank_name(int peer) const {
  return fmt::format("rank {} of the job", setup_.world_ranks[static_cast<size_t>(peer)]);
}

// Tells the peer where its messages go and learns where ours go, as far as both have come. True
// when nothing is left to do.
bool PeerCopies::advance(int peer, Lane& lane) {
  const auto p = static_cast<size_t>(peer);
  Mailbox& in = mailbox(peer, rank_);
  while (lane.num_posted < lane.receives.size()) {
    const uint64_t number = num_received_[p];
    if (number - in.num_taken.load(std::memory_order_acquire) >= kPosts) break;
    const Tensor& tensor = *lane.receives[lane.num_posted++];
    in.posts[number % kPosts] = {setup_.memory->address_of(tensor.address()),
                                 MessageRows::of(tensor)};
    num_received_[p] = number + 1;
    in.num_posted.store(number + 1, std::memory_order_release);
  }
  Mailbox& out = mailbox(rank_, peer);
  while (lane.copies.size() < lane.sends.size()) {
    const uint64_t number = num_sent_[p];
    if (out.num_posted.load(std::memory_order_acquire) == number) break;
    const Post post = out.posts[number % kPosts];
    const Tensor& tensor = *lane.sends[lane.copies.size()];
    const MessageRows rows = MessageRows::of(tensor);
    LONGSHIP_CHECK(RowCopy::fits(post.rows, rows), "{} expects {} x {} bytes, {} sends {} x {}",
                   rank_name(peer), post.rows.num_rows, post.rows.row_bytes, setup_.failure->self(),
                   rows.num_rows, rows.row_bytes);
    const RowCopy copy = RowCopy::between(post.rows, rows);
    lane.copies.push_back({setup_.memory->map(setup_.world_ranks[p], post.address), copy.to_pitch,
                           tensor.address(), copy.from_pitch, copy.row_bytes, copy.num_rows});
    num_sent_[p] = number + 1;
    out.num_taken.store(number + 1, std::memory_order_release);
  }
  return lane.num_posted == lane.receives.size() && lane.copies.size() == lane.sends.size();
}

void PeerCopies::rendezvous(const std::string& operation, std::vector<Lane>& lanes) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  StreamWaits::HostLoop loop(*setup_.waits);
  while (true) {
    bool complete = true;
    for (int peer = 0; peer < size_; ++peer)
      if (!advance(peer, lanes[static_cast<size_t>(peer)])) complete = false;
    if (complete) return;
    loop.look();
    setup_.failure->throw_if_set();
    const auto waited = Clock::now() - begin;
    if (waited < kSpin) {
      std::this_thread::yield();
      continue;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
    if (std::chrono::duration<double>(waited).count() < setup_.failure->timeout_s()) continue;
    std::string missing;
    for (int peer = 0; peer < size_; ++peer) {
      const Lane& lane = lanes[static_cast<size_t>(peer)];
      if (lane.num_posted < lane.receives.size() || lane.copies.size() < lane.sends.size())
        missing += (missing.empty() ? "" : ", ") + rank_name(peer);
    }
    throw setup_.failure->timeout(operation, fmt::format("{} did not begin it", missing));
  }
}

void PeerCopies::exchange(const std::string& operation, const std::vector<P2P>& batch,
                          const Stream& stream) {
  std::vector<Lane> lanes(static_cast<size_t>(size_));
  for (const P2P& message : batch) {
    Lane& lane = lanes[static_cast<size_t>(message.peer)];
    (message.kind == P2P::Kind::kSend ? lane.sends : lane.receives).push_back(&message.tensor);
  }
  rendezvous(operation, lanes);

  // First of all every peer learns that its targets may be written, so that no two GPUs wait for
  // each other. Each rank then begins with the next one, so that not all write to one.
  const StreamHandle handle = stream.handle();
  WordOperations words;
  for (int peer = 0; peer < size_; ++peer)
    if (const auto p = static_cast<size_t>(peer); !lanes[p].receives.empty())
      words.write(peer_word(kReady, peer), static_cast<uint32_t>(num_received_[p]));
  for (int step = 1; step < size_; ++step) {
    const int peer = (rank_ + step) % size_;
    const auto p = static_cast<size_t>(peer);
    const Lane& lane = lanes[p];
    if (lane.sends.empty()) continue;
    words.wait(own_word(kReady, peer), static_cast<uint32_t>(num_sent_[p]));
    words.enqueue(handle);
    for (const CudaRowCopy& copy : lane.copies) enqueue_row_copy(copy, handle);
    words.write(peer_word(kArrived, peer), static_cast<uint32_t>(num_sent_[p]));
  }
  for (int peer = 0; peer < size_; ++peer)
    if (const auto p = static_cast<size_t>(peer); !lanes[p].receives.empty())
      words.wait(own_word(kArrived, peer), static_cast<uint32_t>(num_received_[p]));
  words.enqueue(handle);
}

void PeerCopies::release(const Stream& rescue) noexcept {
  try {
    WordOperations words;
    for (int peer = 0; peer < size_; ++peer) {
      const auto p = static_cast<size_t>(peer);
      words.write(own_word(kReady, peer), static_cast<uint32_t>(num_sent_[p]) + kFarAhead);
      words.write(own_word(kArrived, peer), static_cast<uint32_t>(num_received_[p]) + kFarAhead);
    }
    words.enqueue(rescue.handle());
  } catch (const Error&) {
    // The GPU is lost, and its streams do no more work.
  }
}

std::string PeerCopies::missing(const Stream& rescue) const {
  std::vector<int32_t> words(static_cast<size_t>(kNumWordKinds * size_));
  enqueue_copy(words.data(), words_.address(), words_.num_bytes(), rescue.handle());
  rescue.synchronize();
  std::string text;
  for (int peer = 0; peer < size_; ++peer) {
    const auto p = static_cast<size_t>(peer);
    const auto is_behind = [&](WordKind kind, uint64_t wanted) {
      const auto word = static_cast<uint32_t>(words[static_cast<size_t>(kind * size_ + peer)]);
      return static_cast<int32_t>(word - static_cast<uint32_t>(wanted)) < 0;
    };
    if (is_behind(kArrived, num_received_[p]))
      text += fmt::format("{}no message from {}", text.empty() ? "" : "; ", rank_name(peer));
    if (is_behind(kReady, num_sent_[p]))
      text +=
          fmt::format("{}our message not taken by {}", text.empty() ? "" : "; ", rank_name(peer));
  }
  return text;
}

}  // namespace longship
