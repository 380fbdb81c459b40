// The outermost frame of the program: errors become a message and an exit code, for the whole job.
#pragma once

#include <functional>

namespace longship {

// Runs `body` and returns its value. If it throws, prints "longship: <kind of error>: <message>",
// or "longship, rank 3: ..." on any rank but 0, and returns the error's exit code (ErrorCode; 4 for
// std::bad_alloc, 70 for any other exception). If MPI is still initialised by then, as when the
// exception passed an MpiRuntime, ends all ranks of the job with that code instead of returning,
// since they may be waiting for this one. When all ranks fail alike, rank 0 speaks for them.
int guarded_main(const std::function<int()>& body);

}  // namespace longship
