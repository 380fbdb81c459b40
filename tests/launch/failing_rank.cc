// A job that ends badly in a way named by its argument; guarded_main_test.cc starts and watches it.
#include <cstdlib>
#include <functional>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>

#include "launch/guarded_main.h"
#include "parallel/mpi_runtime.h"
#include "runtime/error.h"

namespace {

using namespace longship;

Error corrupt() {
  return Error(ErrorCode::kCorrupt, {.what = "tokens.bin is damaged", .next = "prepare it again"});
}

// What a rank does once MPI runs.
using Scene = std::function<int(MpiRuntime&, const Group&)>;

const std::map<std::string, Scene>& scenes() {
  static const std::map<std::string, Scene> all = {
      {"one_throws",
       [](MpiRuntime&, const Group& world) {
         if (world.rank() == 1) throw corrupt();
         world.barrier("scene.wait");
         return 0;
       }},
      {"one_throws_others_compute",
       [](MpiRuntime&, const Group& world) {
         if (world.rank() == 1) throw corrupt();
         for (volatile double x = 0;;) x = x + 1;
         return 0;
       }},
      {"one_throws_during_transfers",
       [](MpiRuntime&, const Group& world) {
         const Tensor large = Tensor::zeros(std::make_shared<Memory>(), {32 << 20}, DType::kU8);
         const Work unfinished = world.broadcast("scene.large", large, 0);
         if (world.rank() == 1) throw corrupt();
         world.barrier("scene.wait");
         return 0;
       }},
      {"one_throws_others_split",
       [](MpiRuntime&, const Group& world) {
         if (world.rank() == 1) throw corrupt();
         world.split(0, 0);
         return 0;
       }},
      {"all_throw", [](MpiRuntime&, const Group&) -> int { throw corrupt(); }},
      {"out_of_memory", [](MpiRuntime&, const Group&) -> int { throw std::bad_alloc(); }},
      {"foreign_exception",
       [](MpiRuntime&, const Group&) -> int { throw std::runtime_error("from a library"); }},
      {"abort",
       [](MpiRuntime& runtime, const Group& world) {
         if (world.rank() == 1) runtime.abort(9);
         world.barrier("scene.wait");
         return 0;
       }},
      {"silent_rank",
       [](MpiRuntime&, const Group& world) {
         const Tensor tensor = Tensor::zeros(std::make_shared<Memory>(), {4}, DType::kF32);
         if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::hours(1));
         world.exchange("scene.message", {P2P::receive(1, tensor)}).wait();
         return 0;
       }},
      {"all_return_75", [](MpiRuntime&, const Group& world) {
         world.barrier("scene.together");
         return 75;
       }}};
  return all;
}

}  // namespace

int main(int, char** argv) {
  return longship::guarded_main([&] {
    const std::string scene = argv[1];
    const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
    if (scene == "all_throw_before_mpi") throw corrupt();
    if (scene == "one_throws_before_mpi" && std::string(rank) == "1") throw corrupt();
    MpiRuntime runtime({.timeout_s = scene == "silent_rank" ? 1.0 : 60.0});
    if (scene == "one_throws_before_mpi") return 0;
    return scenes().at(scene)(runtime, runtime.world());
  });
}
