// Transposes kLanes vectors of kLanes floats in registers.
#pragma once

#include "lanes.h"

namespace dynfocus::cpu::vector {

namespace {

template <int... lane>
struct Lanes {};

template <int n, int... lane>
struct LanesBelow : LanesBelow<n - 1, n - 1, lane...> {};

template <int... lane>
struct LanesBelow<0, lane...> {
  typedef Lanes<lane...> type;
};

// Swaps the lanes of a that have bit `distance` with those of b that have not.
template <int distance, int... lane>
inline void exchange(Vector& a, Vector& b, Lanes<lane...>) {
  constexpr int of_b = kLanes;
  const Vector low = __builtin_shufflevector(a, b, (lane & distance ? lane - distance + of_b : lane)...);
  b = __builtin_shufflevector(a, b, (lane & distance ? lane + of_b : lane + distance)...);
  a = low;
}

template <int distance>
inline void exchange_all(Vector* rows) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes; ++i) {
    if (!(i & distance)) exchange<distance>(rows[i], rows[i + distance], typename LanesBelow<kLanes>::type());
  }
  if constexpr (2 * distance < kLanes) exchange_all<2 * distance>(rows);
}

// rows[i][j] becomes rows[j][i].
[[maybe_unused]] inline void transpose(Vector rows[kLanes]) { exchange_all<1>(rows); }

}  // namespace

}  // namespace dynfocus::cpu::vector
