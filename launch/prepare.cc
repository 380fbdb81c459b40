// longship prepare: text, JSONL or folders into a token file.
#include <algorithm>
#include <cstdio>
#include <thread>

#include "data/prepare.h"
#include "launch/verbs.h"

namespace longship {

int run_prepare(const PrepareArguments& arguments) {
  PrepareOptions options;
  options.inputs = arguments.inputs;
  options.out = arguments.output;
  options.tokenizer = make_tokenizer(arguments.tokenizer);
  options.num_threads = arguments.num_threads > 0
                            ? arguments.num_threads
                            : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  options.split_on = arguments.split_on;
  options.text_field = arguments.text_field;
  options.prompt_field = arguments.prompt_field;
  options.min_tokens = arguments.min_tokens;
  options.allow_invalid_utf8 = arguments.allow_invalid_utf8;
  options.overwrite = arguments.overwrite;
  const PrepareReport report = prepare(options);
  std::printf("%s\n", report.text().c_str());
  return 0;
}

}  // namespace longship
