#include "launch/guarded_main.h"

#include <gtest/gtest.h>

#include <ostream>

#include "runtime/error.h"
#include "tests/support/run_program.h"

namespace longship {
namespace {

using testing::ProgramResult;
using testing::run_program;

ProgramResult run_scene(const std::string& scene, int ranks) {
  return run_program(ranks, std::string(LONGSHIP_FAILING_RANK) + " " + scene, 30);
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

struct Ending {
  std::string scene;
  int exit_code;
  std::string message;

  friend std::ostream& operator<<(std::ostream& out, const Ending& ending) {
    return out << ending.scene;
  }
};

class FailingRank : public ::testing::TestWithParam<Ending> {};

TEST_P(FailingRank, EndsTheJobSoonWithItsCodeAndOneMessage) {
  const ProgramResult result = run_scene(GetParam().scene, 3);
  EXPECT_EQ(result.exit_code, GetParam().exit_code) << result.output;
  EXPECT_LT(result.seconds, 10);
  EXPECT_EQ(count(result.output, GetParam().message), 1) << result.output;
  EXPECT_EQ(count(result.output, "longship: ") + count(result.output, "longship, rank "), 1)
      << result.output;
}

INSTANTIATE_TEST_SUITE_P(
    Scenes, FailingRank,
    ::testing::Values(
        Ending{"one_throws", 3, "longship, rank 1: corrupt data: tokens.bin is damaged\n  next:"},
        Ending{"one_throws_others_compute", 3, "longship, rank 1: corrupt data: tokens.bin"},
        Ending{"one_throws_during_transfers", 3, "longship, rank 1: corrupt data: tokens.bin"},
        Ending{"one_throws_others_split", 3, "longship, rank 1: corrupt data: tokens.bin"},
        Ending{"one_throws_before_mpi", 3, "longship, rank 1: corrupt data: tokens.bin"},
        Ending{"all_throw", 3, "longship: corrupt data: tokens.bin is damaged"},
        Ending{"all_throw_before_mpi", 3, "longship: corrupt data: tokens.bin is damaged"},
        Ending{"out_of_memory", 4, "longship: out of memory"},
        Ending{"foreign_exception", 70, "longship: internal error: from a library"}),
    [](const auto& info) { return info.param.scene; });

TEST(GuardedMain, TimeOutNamesOperationAndPeer) {
  const ProgramResult result = run_scene("silent_rank", 2);
  EXPECT_EQ(result.exit_code, 5) << result.output;
  EXPECT_LT(result.seconds, 10);
  for (const char* part : {"longship: communication time-out: ", "`scene.message`", "group of 2",
                           "no message from rank 1", "within 1 s"})
    EXPECT_EQ(count(result.output, part), 1) << part << " in\n" << result.output;
}

TEST(GuardedMain, AbortEndsAllRanksWithItsCode) {
  const ProgramResult result = run_scene("abort", 3);
  EXPECT_EQ(result.exit_code, 9) << result.output;
  EXPECT_LT(result.seconds, 10);
}

TEST(GuardedMain, ValueOfTheBodyIsTheExitCodeOfTheJob) {
  EXPECT_EQ(run_scene("all_return_75", 3).exit_code, 75);
  EXPECT_EQ(run_scene("all_return_75", 0).exit_code, 75);
}

TEST(GuardedMain, WorksWithoutMpirun) {
  const ProgramResult result = run_scene("all_throw", 0);
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(count(result.output, "longship: corrupt data"), 1) << result.output;
}

TEST(GuardedMain, MapsErrorsWithoutMpi) {
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(guarded_main([] { return 7; }), 7);
  EXPECT_EQ(
      guarded_main([]() -> int { throw Error(ErrorCode::kStorage, {.what = "disk is full"}); }), 7);
  EXPECT_EQ(guarded_main([]() -> int { throw 1; }), 70);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "longship: storage error: disk is full\n"
            "longship: internal error: an exception of unknown type\n");
}

}  // namespace
}  // namespace longship
