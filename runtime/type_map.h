// One object of each type, made at first use.
#pragma once

#include <map>
#include <memory>
#include <typeindex>
#include <utility>

namespace longship {

class TypeMap {
 public:
  // The object of type T; the first time, make() gives a std::unique_ptr<T>.
  template <class T, class Make>
  T& get(Make&& make) {
    std::shared_ptr<void>& slot = objects_[std::type_index(typeid(T))];
    if (slot == nullptr) slot = std::shared_ptr<T>(std::forward<Make>(make)());
    return *static_cast<T*>(slot.get());
  }

 private:
  std::map<std::type_index, std::shared_ptr<void>> objects_;
};

}  // namespace longship
