// csrc/cuda/device.h, and what of CUDA itself the kernels use, on a CPU: a fibre for each thread of a block.
//
// A fibre runs until a barrier or a warp's common operation stops it. Which one runs next is drawn from a seed: from one barrier of the
// block to the next, warps come in some order and each as far as it gets. So what lacks a barrier sees memory too early or too late.
// Copies that run by themselves land when they start or when they are waited for, as drawn; shared memory is full of some byte before
// each block. A barrier, or a wait, can be left out on purpose: see `Emulation::left_out`.
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __syncthreads() emulation().synchronize(__FILE__, __LINE__)
#define DYNFOCUS_SHARED_MEMORY(name) unsigned char* name = emulation().shared_memory()

namespace dynfocus::cuda {

using SharedAddress = uint32_t;

class Emulation {
 public:
  static constexpr int kLanes = 32, kMaxThreads = 1024, kStack = 128 << 10, kGuard = 256, kMaxBarriers = 1000;

  uint64_t seed = 0;
  std::string left_out;         // the barrier or wait, one of `sites`, that does nothing
  std::set<std::string> sites;  // those passed so far
  int block = 0, num_threads = 0;

  // Runs `body` in all threads of each block; what went wrong, or nothing.
  std::string launch(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& body) {
    body_ = &body;
    num_threads = threads;
    random_.seed(seed);
    error_.clear();
    struct sigaction action = {}, before;
    action.sa_handler = on_fault;
    action.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &action, &before);
    for (block = 0; block < blocks && error_.empty(); ++block) run_block(shared_bytes);
    sigaction(SIGSEGV, &before, nullptr);
    return error_;
  }

  int thread() const { return current_; }

  unsigned char* shared_memory() { return shared_.data() + shared_start_; }

  // Where 16 bytes of shared memory are.
  unsigned char* at(SharedAddress address) {
    if (address % 16 != 0 || address + 16 > shared_bytes_) fail("a copy or matrix row is outside of shared memory or not aligned");
    return shared_memory() + address;
  }

  void synchronize(const char* file, int line) {
    if (!is_left_out(file, line)) wait_for_block();
  }

  int synchronize_or(int value) {
    any_[any_turn_[current_]] |= value;
    if (block_barrier_.arrived + 1 == num_threads) any_[!any_turn_[current_]] = 0;  // for the next one
    wait_for_block();
    const int result = any_[any_turn_[current_]];
    any_turn_[current_] ^= 1;
    return result;
  }

  bool is_left_out(const char* file, int line) {
    const char* name = std::strrchr(file, '/');
    const std::string site = std::string(name == nullptr ? file : name + 1) + ":" + std::to_string(line);
    sites.insert(site);
    return site == left_out;
  }

  // One operation of all lanes of a warp: the last to come runs combine(values), values[l] being what lane l came with and gets.
  template <class T, class Combine>
  T together(const char* operation, const T& value, const Combine& combine) {
    Warp& warp = warps_[current_ / kLanes];
    Meeting& meeting = warp.meetings[turn_[current_] ^= 1];
    static_assert(sizeof(T) <= sizeof(meeting.values[0]));
    T* values = reinterpret_cast<T*>(meeting.values);
    if (warp.barrier.arrived == 0) meeting.operation = operation;
    if (meeting.operation != operation) fail("lanes of a warp meet at different operations: " + std::string(operation));
    values[current_ % kLanes] = value;
    if (warp.barrier.arrived + 1 == kLanes) combine(values);
    wait_at(warp.barrier, kLanes);
    return values[current_ % kLanes];
  }

  struct Copy {
    SharedAddress to;
    const void* from;
    bool is_there;
    int group;
  };

  void start(const Copy& copy) {
    if (random_() % 2 == 0) {
      land(copy);
    } else {
      copies_[current_].push_back({copy.to, copy.from, copy.is_there, group_[current_]});
    }
  }

  void close_group() { ++group_[current_]; }

  void land_all_but(int pending) {
    std::vector<Copy>& copies = copies_[current_];
    const auto is_pending = [&](const Copy& copy) { return copy.group >= group_[current_] - pending; };
    const auto first_pending = std::find_if(copies.begin(), copies.end(), is_pending);
    std::for_each(copies.begin(), first_pending, [&](const Copy& copy) { land(copy); });
    copies.erase(copies.begin(), first_pending);
  }

  [[noreturn]] void fail(const std::string& error) {
    if (error_.empty()) error_ = error;
    for (;;) leave();
  }

 private:
  struct Barrier {
    int arrived = 0;
    std::vector<int> waiting;
  };
  struct Meeting {
    const char* operation;
    alignas(16) unsigned char values[kLanes][64];
  };
  struct Warp {
    std::vector<int> ready;
    Barrier barrier;
    Meeting meetings[2];  // the next may begin before all have read this one's result
  };

  static constexpr int kMaxWarps = kMaxThreads / kLanes;

  void run_block(size_t shared_bytes) {
    shared_bytes_ = shared_bytes;
    shared_.resize(kGuard + shared_bytes + 128 + kGuard);
    shared_start_ = kGuard + (128 - (reinterpret_cast<uintptr_t>(shared_.data()) + kGuard) % 128) % 128;
    const unsigned char fills[] = {0x00, 0x7f, 0xff, static_cast<unsigned char>(random_())};
    std::fill(shared_.begin(), shared_.end(), fills[random_() % std::size(fills)]);
    const std::vector<unsigned char> before = shared_;
    block_barrier_ = {};
    barriers_left_ = kMaxBarriers;
    any_[0] = any_[1] = 0;
    for (int w = 0; w < num_threads / kLanes; ++w) warps_[w].barrier = {}, warps_[w].ready = {};
    warp_order_.resize(num_threads / kLanes);
    std::iota(warp_order_.begin(), warp_order_.end(), 0);
    std::shuffle(warp_order_.begin(), warp_order_.end(), random_);
    for (int t = 0; t < num_threads; ++t) {
      started_[t] = false;
      turn_[t] = any_turn_[t] = group_[t] = 0;
      copies_[t].clear();
      make_ready(t);
    }
    int finished = 0;
    while (error_.empty() && choose_next()) finished += resume();
    if (error_.empty() && finished < num_threads) error_ = "some threads wait where the others never come";
    const auto guarded = [&](size_t from, size_t to) { return std::equal(&before[from], &before[to], &shared_[from]); };
    const bool is_intact = guarded(0, shared_start_) && guarded(shared_start_ + shared_bytes, shared_.size() - 1);
    if (error_.empty() && !is_intact) error_ = "a thread writes outside of shared memory";
  }

  void make_ready(int thread) { warps_[thread / kLanes].ready.push_back(thread); }

  // Makes a thread that is ready the current one; false if none is.
  bool choose_next() {
    for (int w : warp_order_) {
      std::vector<int>& ready = warps_[w].ready;
      if (ready.empty()) continue;
      std::swap(ready[random_() % ready.size()], ready.back());
      current_ = ready.back();
      ready.pop_back();
      return true;
    }
    return false;
  }

  // Runs the current fibre until it leaves; true if it is done. Only its start needs a context, which costs a system call.
  bool resume() {
    is_done_ = false;
    if (_setjmp(scheduler_) == 0) {
      if (started_[current_]) _longjmp(fibres_[current_], 1);
      started_[current_] = true;
      if (!stacks_[current_]) stacks_[current_] = std::make_unique_for_overwrite<char[]>(kStack);
      ucontext_t context;
      getcontext(&context);
      context.uc_stack.ss_sp = stacks_[current_].get();
      context.uc_stack.ss_size = kStack;
      context.uc_link = nullptr;
      makecontext(&context, &Emulation::run_fibre, 0);
      setcontext(&context);
    }
    return is_done_;
  }

  static void run_fibre();
  static void on_fault(int);

  __attribute__((noinline)) void leave() {
    if (_setjmp(fibres_[current_]) == 0) _longjmp(scheduler_, 1);
  }

  void wait_at(Barrier& barrier, int expected) {
    if (++barrier.arrived == expected) {
      barrier.arrived = 0;
      for (int thread : barrier.waiting) make_ready(thread);
      barrier.waiting.clear();
      return;
    }
    barrier.waiting.push_back(current_);
    leave();
  }

  void wait_for_block() {
    if (block_barrier_.arrived + 1 == num_threads) {
      if (--barriers_left_ == 0) fail("the threads do not come to an end");
      std::shuffle(warp_order_.begin(), warp_order_.end(), random_);
    }
    wait_at(block_barrier_, num_threads);
  }

  void land(const Copy& copy) {
    if (copy.is_there) {
      std::memcpy(at(copy.to), copy.from, 16);
    } else {
      std::memset(at(copy.to), 0, 16);
    }
  }

  const std::function<void()>* body_ = nullptr;
  std::mt19937 random_;
  std::string error_;
  std::vector<unsigned char> shared_;
  size_t shared_start_ = 0, shared_bytes_ = 0;
  int current_ = 0, barriers_left_ = 0;
  bool is_done_ = false;
  jmp_buf scheduler_, fibres_[kMaxThreads];
  std::unique_ptr<char[]> stacks_[kMaxThreads];
  std::vector<int> warp_order_;
  bool started_[kMaxThreads];
  int turn_[kMaxThreads], any_turn_[kMaxThreads], group_[kMaxThreads], any_[2];
  std::vector<Copy> copies_[kMaxThreads];
  Barrier block_barrier_;
  Warp warps_[kMaxWarps];
};

inline Emulation& emulation() {
  static Emulation emulation;
  return emulation;
}

inline void Emulation::on_fault(int) { emulation().fail("a thread reads or writes where there is no memory"); }

inline void Emulation::run_fibre() {
  Emulation& self = emulation();
  (*self.body_)();
  self.is_done_ = true;
  self.leave();
}

}  // namespace dynfocus::cuda

#include "emulated_device.h"
