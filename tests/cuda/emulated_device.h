// The functions of csrc/cuda/device.h and of CUDA by name, on the emulation of emulator.h.
#pragma once

namespace dynfocus::cuda {

struct float2 {
  float x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

struct ThreadIndex {
  operator unsigned() const { return emulation().thread(); }
};
struct BlockIndex {
  operator unsigned() const { return emulation().block; }
};
struct BlockSize {
  operator unsigned() const { return emulation().num_threads; }
};
inline struct {
  ThreadIndex x;
} threadIdx;
inline struct {
  BlockIndex x;
} blockIdx;
inline struct {
  BlockSize x;
} blockDim;

using std::isfinite, std::isnan, std::max, std::min;

inline int __ffs(int word) { return __builtin_ffs(word); }

template <class To, class From>
To same_bits(From from) {
  To to;
  static_assert(sizeof to == sizeof from);
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline int __float_as_int(float x) { return same_bits<int>(x); }

template <class T>
T __ldg(const T* address) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(T) != 0) emulation().fail("a load is not aligned");
  return *address;
}

inline int __syncthreads_or(int value) { return emulation().synchronize_or(value); }

inline uint32_t __ballot_sync(uint32_t lanes, int is_set) {
  if (lanes != 0xffffffffu) emulation().fail("only whole warps are emulated");
  return emulation().together("ballot", static_cast<uint32_t>(is_set), [](uint32_t* values) {
    uint32_t ballot = 0;
    for (int lane = 0; lane < 32; ++lane) ballot |= static_cast<uint32_t>(values[lane] != 0) << lane;
    std::fill_n(values, 32, ballot);
  });
}

inline int __any_sync(uint32_t lanes, int is_set) { return __ballot_sync(lanes, is_set) != 0; }

inline float __shfl_xor_sync(uint32_t lanes, float value, int other) {
  if (lanes != 0xffffffffu) emulation().fail("only whole warps are emulated");
  return emulation().together("shuffle", value, [&](float* values) {
    float shuffled[32];
    for (int lane = 0; lane < 32; ++lane) shuffled[lane] = values[lane ^ other];
    std::copy_n(shuffled, 32, values);
  });
}

inline SharedAddress shared_address(const void* pointer) {
  return static_cast<SharedAddress>(static_cast<const unsigned char*>(pointer) - emulation().shared_memory());
}

inline void start_copy(SharedAddress to, const void* from, bool is_there) {
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) emulation().fail("a copy is not aligned");
  emulation().start({to, from, is_there, 0});
}

inline void close_copy_group() { emulation().close_group(); }

template <int kPending>
void wait_for_copies() {
  if (!emulation().is_left_out("wait_for_copies", kPending)) emulation().land_all_but(kPending);
}

inline void load_matrices(uint32_t (&to)[4], SharedAddress row) {
  struct Words {
    uint32_t word[4];
  };
  const Words words = emulation().together("load_matrices", Words{{row}}, [](Words* lanes) {
    unsigned char* rows[32];
    for (int lane = 0; lane < 32; ++lane) rows[lane] = emulation().at(lanes[lane].word[0]);
    for (int lane = 0; lane < 32; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) std::memcpy(&lanes[lane].word[matrix], rows[8 * matrix + lane / 4] + lane % 4 * 4, 4);
    }
  });
  std::copy_n(words.word, 4, to);
}

// A matrix unit adds up exact products and cuts off what float32 does not hold, here after each eight.
inline float cut(double sum) {
  const float nearest = static_cast<float>(sum);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(sum) && std::isfinite(nearest) ? std::nextafterf(nearest, 0.0f) : nearest;
}

template <class Element>
void emulate_multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    float sums[4];
    uint32_t a[4], b[2];
  };
  const Operands own = {{sums[0], sums[1], sums[2], sums[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  const Operands result = emulation().together("multiply_add", own, [](Operands* lanes) {
    double left[16][16], right[8][16];
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4, k = lane % 4 * 2;
      const auto unpack = [](uint32_t pair, double* to) {
        const float2 values = Element::unpack(pair);
        to[0] = values.x;
        to[1] = values.y;
      };
      for (int q = 0; q < 4; ++q) unpack(lanes[lane].a[q], &left[row + q % 2 * 8][k + q / 2 * 8]);
      for (int q = 0; q < 2; ++q) unpack(lanes[lane].b[q], &right[row][k + q * 8]);
    }
    for (int lane = 0; lane < 32; ++lane) {
      for (int e = 0; e < 4; ++e) {
        const double *row = left[lane / 4 + e / 2 * 8], *column = right[lane % 4 * 2 + e % 2];
        float& sum = lanes[lane].sums[e];
        for (int half = 0; half < 16; half += 8) {
          double total = sum;
          for (int k = half; k < half + 8; ++k) total += row[k] * column[k];
          sum = cut(total);
        }
      }
    }
  });
  std::copy_n(result.sums, 4, sums);
}

struct BFloat16 {
  static float2 unpack(uint32_t pair) { return {same_bits<float>(pair << 16), same_bits<float>(pair & 0xffff0000u)}; }

  static uint32_t pack(float first, float second) { return round(first) | round(second) << 16; }

  static void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulate_multiply_add<BFloat16>(sums, a, b0, b1);
  }

 private:
  static uint32_t round(float x) {
    const uint32_t bits = same_bits<uint32_t>(x);
    return std::isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  }
};

struct Float16 {
  static float2 unpack(uint32_t pair) { return {widen(pair & 0xffff), widen(pair >> 16)}; }

  static uint32_t pack(float first, float second) { return round(first) | round(second) << 16; }

  static void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulate_multiply_add<Float16>(sums, a, b0, b1);
  }

 private:
  static float widen(uint32_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const float sign = half >> 15 != 0 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
    return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
  }

  static uint32_t round(float x) {
    const uint32_t sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (std::isnan(x)) return 0x7fff;
    if (size >= 65520.0f) return sign | 0x7c00;  // infinity
    const int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
    const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 10 - exponent)));  // of the last place; 1024 to 2048
    return sign | (static_cast<uint32_t>(exponent + 14) * 1024 + units);  // a carry goes into the exponent
  }
};

}  // namespace dynfocus::cuda
