// What is computed from an object that does not change, made once: by type and key.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "runtime/type_map.h"

namespace longship {

// A member of such an object. For any number of threads.
class Memo {
 public:
  Memo() = default;
  // A copy of the object may be about to change: it starts anew.
  Memo(const Memo&) {}
  Memo& operator=(const Memo&) {
    std::lock_guard lock(mutex_);
    maps_ = {};
    return *this;
  }

  // The T of `key`; the first time, make() gives it, and may ask for others.
  template <class T, class Key, class Make>
  std::shared_ptr<const T> get(const Key& key, Make&& make) const {
    using Map = std::map<Key, std::shared_ptr<const T>>;
    std::lock_guard lock(mutex_);
    std::shared_ptr<const T>& slot = maps_.get<Map>([] { return std::make_unique<Map>(); })[key];
    if (slot == nullptr) slot = std::make_shared<const T>(std::forward<Make>(make)());
    return slot;
  }

 private:
  mutable std::recursive_mutex mutex_;
  mutable TypeMap maps_;
};

}  // namespace longship
