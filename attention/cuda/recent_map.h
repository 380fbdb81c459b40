// A map that keeps what was used most recently.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

namespace longship {

template <class Key, class Value>
class RecentMap {
 public:
  explicit RecentMap(size_t capacity) : capacity_(capacity) {}

  // The value of `key`; make() gives it if it is not kept. Valid until the next call.
  template <class Make>
  Value& get(const Key& key, Make&& make) {
    auto found = slots_.find(key);
    if (found == slots_.end()) {
      Value value = std::forward<Make>(make)();
      if (slots_.size() == capacity_) {
        slots_.erase(std::min_element(slots_.begin(), slots_.end(), [](auto& a, auto& b) {
          return a.second.last_use < b.second.last_use;
        }));
      }
      found = slots_.emplace(key, Slot{std::move(value), 0}).first;
    }
    found->second.last_use = ++num_uses_;
    return found->second.value;
  }

 private:
  struct Slot {
    Value value;
    int64_t last_use;
  };

  size_t capacity_;
  std::map<Key, Slot> slots_;
  int64_t num_uses_ = 0;
};

}  // namespace longship
