#include "parallel/transport_choice.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

TEST(TransportChoice, OneForAllMessages) {
  const TransportChoice nccl(Transport::kNccl);
  EXPECT_EQ(nccl.of(0), Transport::kNccl);
  EXPECT_EQ(nccl.of(int64_t{1} << 40), Transport::kNccl);
  EXPECT_TRUE(nccl.uses(Transport::kNccl));
  EXPECT_FALSE(nccl.uses(Transport::kPeerCopies));
  EXPECT_EQ(nccl.text(), "NCCL for all messages");
}

TEST(TransportChoice, ChangesOverBetweenSamplesThatDisagree) {
  const TransportChoice choice = TransportChoice::faster({
      {.message_bytes = 1024, .peer_copies_s = 1, .nccl_s = 2},
      {.message_bytes = 4096, .peer_copies_s = 1, .nccl_s = 2},
      {.message_bytes = 65536, .peer_copies_s = 3, .nccl_s = 2},
      {.message_bytes = 1048576, .peer_copies_s = 1, .nccl_s = 2},
  });
  EXPECT_EQ(choice.of(0), Transport::kPeerCopies);
  EXPECT_EQ(choice.of(16383), Transport::kPeerCopies);
  EXPECT_EQ(choice.of(16384), Transport::kNccl);
  EXPECT_EQ(choice.of(262143), Transport::kNccl);
  EXPECT_EQ(choice.of(262144), Transport::kPeerCopies);
  EXPECT_TRUE(choice.uses(Transport::kNccl));
  EXPECT_TRUE(choice.uses(Transport::kPeerCopies));
  EXPECT_EQ(choice.text(),
            "peer copies from 0 B to 16 KiB, NCCL from 16 KiB to 256 KiB, peer copies above");
}

TEST(TransportChoice, TakesTheOneThatIsAlwaysFaster) {
  const TransportChoice choice = TransportChoice::faster({
      {.message_bytes = 4096, .peer_copies_s = 1, .nccl_s = 1},
      {.message_bytes = 65536, .peer_copies_s = 1, .nccl_s = 2},
  });
  EXPECT_FALSE(choice.uses(Transport::kNccl));
  EXPECT_EQ(choice.text(), "peer copies for all messages");
}

}  // namespace
}  // namespace longship
