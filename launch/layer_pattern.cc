#include "launch/layer_pattern.h"

#include <algorithm>

#include "runtime/error.h"

namespace longship {
namespace {

using Layers = std::vector<std::vector<std::string>>;

// Groups within groups that are followed; a deeper one is a mistake, or an attack on the stack.
constexpr int kMostNesting = 8;

bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool begins_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool continues_name(char c) {
  return begins_name(c) || is_digit(c) || c == '_' || c == '-';
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Layers whole() {
    Layers layers = pattern(0);
    if (!at_end()) fail("`,` or the end");
    return layers;
  }

 private:
  Layers pattern(int nesting) {
    Layers layers;
    do {
      const size_t begin = next_position();
      const Layers more = item(nesting);
      if (layers.size() + more.size() > static_cast<size_t>(kMostLayers)) too_long(begin);
      layers.insert(layers.end(), more.begin(), more.end());
    } while (take(','));
    return layers;
  }

  Layers item(int nesting) {
    const size_t begin = next_position();
    const int64_t times = count();
    const Layers once = unit(nesting);
    if (times > kMostLayers / static_cast<int64_t>(once.size())) too_long(begin);
    Layers layers;
    for (int64_t i = 0; i < times; ++i) layers.insert(layers.end(), once.begin(), once.end());
    return layers;
  }

  // "3x", or 1 where no number stands.
  int64_t count() {
    if (at_end() || !is_digit(text_[position_])) return 1;
    const size_t begin = position_;
    int64_t value = 0;
    for (; position_ < text_.size() && is_digit(text_[position_]); ++position_)
      value = std::min(kMostLayers + 1, value * 10 + (text_[position_] - '0'));
    if (value == 0) fail_at(begin, "a count of at least 1");
    if (value > kMostLayers) too_long(begin);
    if (!take('x') || (position_ < text_.size() && continues_name(text_[position_])))
      fail("`x` and a blank between a count and what it counts");
    return value;
  }

  Layers unit(int nesting) {
    if (take('(')) {
      if (nesting == kMostNesting)
        fail_at(position_ - 1, fmt::format("at most {} groups within each other", kMostNesting));
      Layers layers = pattern(nesting + 1);
      if (!take(')')) fail("`,` or `)`");
      return layers;
    }
    std::vector<std::string> mixers;
    do {
      mixers.push_back(name());
    } while (take('+'));
    return {mixers};
  }

  std::string name() {
    if (at_end() || !begins_name(text_[position_])) fail("the name of a mixer");
    const size_t begin = position_;
    while (position_ < text_.size() && continues_name(text_[position_])) ++position_;
    return std::string(text_.substr(begin, position_ - begin));
  }

  size_t next_position() {
    while (position_ < text_.size() && is_blank(text_[position_])) ++position_;
    return position_;
  }
  bool at_end() { return next_position() == text_.size(); }
  bool take(char c) {
    if (at_end() || text_[position_] != c) return false;
    ++position_;
    return true;
  }

  [[noreturn]] void fail(const std::string& expected) { fail_at(next_position(), expected); }
  [[noreturn]] void fail_at(size_t position, const std::string& expected) const {
    // Enough of the text to find the place, whatever its length.
    constexpr size_t kShown = 24;
    const std::string found =
        position == text_.size() ? "the end" : fmt::format("`{}`", text_.substr(position, kShown));
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("model.layers, character {}", position + 1),
                 .expected = expected,
                 .found = found,
                 .next = "write it as in \"3x gated_delta, 1x full\""});
  }
  [[noreturn]] void too_long(size_t position) const {
    fail_at(position, fmt::format("at most {} layers", kMostLayers));
  }

  std::string_view text_;
  size_t position_ = 0;
};

}  // namespace

LayerPattern parse_layer_pattern(std::string_view text, int64_t num_layers) {
  LayerPattern pattern{.period = Parser(text).whole()};
  const int64_t length = static_cast<int64_t>(pattern.period.size());
  if (num_layers < 1 || num_layers > kMostLayers || num_layers % length != 0) {
    const int64_t below = std::clamp<int64_t>(num_layers, 0, kMostLayers) / length * length;
    const bool has_above = below + length <= kMostLayers;
    const bool nearer_above = has_above && (below == 0 || num_layers - below > length / 2);
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("model.layers has a period of {} layer{}", length,
                                     length == 1 ? "" : "s"),
                 .expected = fmt::format("model.num_layers to be a multiple of it"),
                 .found = std::to_string(num_layers),
                 .next = fmt::format("set model.num_layers: {}, or spell out all layers",
                                     nearer_above ? below + length : below)});
  }
  return pattern;
}

bool is_mixer_name(std::string_view name) {
  return !name.empty() && begins_name(name.front()) &&
         std::all_of(name.begin(), name.end(), continues_name);
}

}  // namespace longship
