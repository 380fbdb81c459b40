// Which work that comes again and again is recorded as a graph, and which recordings are kept.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <utility>
#include <vector>

namespace longship {

struct RecentGraphsOptions {
  size_t most_graphs = 4;
  // A graph makes room for another one when it was not looked up so many times in a row: work that
  // takes turns over more keys than there are graphs is not recorded again and again.
  int64_t idle_lookups = 256;
  size_t most_keys = 32;  // without graphs
};

template <class Graph>
class RecentGraphs {
 public:
  using Key = std::vector<int64_t>;  // equal for work that one graph can do

  explicit RecentGraphs(const RecentGraphsOptions& options = {}) : options_(options) {}

  struct Found {
    const Graph* graph = nullptr;  // of this work, until the next keep()
    bool is_due = false;           // it has come before, has no graph, and there is room for one
  };
  // Work of `key` comes now.
  Found look_up(const Key& key) {
    ++num_lookups_;
    const auto known =
        std::ranges::find_if(entries_, [&](const Entry& entry) { return entry.key == key; });
    const bool came_before = known != entries_.end();
    if (came_before) {
      entries_.splice(entries_.begin(), entries_, known);
    } else {
      entries_.push_front({key, 0, nullptr});
      forget_old_keys();
    }
    Entry& entry = entries_.front();
    entry.last_lookup = num_lookups_;
    return {entry.graph.get(), came_before && entry.graph == nullptr && has_room()};
  }

  // Of the work looked up last, which is due. The graph not used for longest goes if there is one
  // too many.
  void keep(std::unique_ptr<const Graph> graph) {
    entries_.front().graph = std::move(graph);
    if (num_graphs() > options_.most_graphs) oldest_graph()->graph.reset();
  }

  void clear() { entries_.clear(); }

  size_t num_graphs() const {
    return static_cast<size_t>(std::ranges::count_if(entries_, has_graph));
  }

 private:
  struct Entry {
    Key key;
    int64_t last_lookup;
    std::unique_ptr<const Graph> graph;
  };
  using Entries = std::list<Entry>;

  static bool has_graph(const Entry& entry) { return entry.graph != nullptr; }

  typename Entries::reverse_iterator oldest_graph() {
    return std::find_if(entries_.rbegin(), entries_.rend(), has_graph);
  }
  bool has_room() {
    return num_graphs() < options_.most_graphs ||
           num_lookups_ - oldest_graph()->last_lookup > options_.idle_lookups;
  }
  void forget_old_keys() {
    if (entries_.size() - num_graphs() <= options_.most_keys) return;
    entries_.erase(
        std::prev(std::find_if_not(entries_.rbegin(), entries_.rend(), has_graph).base()));
  }

  RecentGraphsOptions options_;
  Entries entries_;  // the latest first
  int64_t num_lookups_ = 0;
};

}  // namespace longship
