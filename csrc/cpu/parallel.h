// Tasks of unequal length for torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace dynfocus::cpu {

// Calls body(task, state) for each task in [0, count), handed out one by one; each thread has a state of its own from make_state().
// What a task computes must not depend on who runs it, or after what. `work` is the multiplications of all tasks: a few are not worth
// waking a thread for. Inside another one's body it runs alone.
template <class MakeState, class Body>
void for_each_task(int64_t count, double work, const MakeState& make_state, const Body& body) {
  constexpr double kWorthAThread = 1 << 20;
  const double threads = std::min<double>(torch::stable::get_num_threads(), 1.0 + work / kWorthAThread);
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, std::min<int64_t>(count, static_cast<int64_t>(threads)), 1, [&](int64_t, int64_t) {
    auto state = make_state();
    for (int64_t task = next++; task < count; task = next++) body(task, state);
  });
}

}  // namespace dynfocus::cpu
