// Weights of 16, 8 and 4 bits, and how few rows are multiplied by them, on a CPU with AVX512-BF16.
//
// M rows of x, K inputs, N outputs. A weight lies in blocks of 16 outputs, one to a lane, so that it is read once, from
// front to back, and no sum crosses lanes. Two neighbouring inputs of an output stand side by side: vdpbf16ps multiplies
// both and adds to a float32. The orders of the three packings are given with their types; llmcli/kernels/few_rows.py
// packs.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

using bf16 = uint16_t;
constexpr int64_t LANES = 16;
constexpr int64_t GROUP = 32;    // inputs that share a scale and a zero in 4 bits
constexpr int ROWS = 8;          // of x that are multiplied by a weight while it is in registers
constexpr int64_t AHEAD = 2048;  // bytes that are asked for early: the hardware's own prefetching ends at each page

inline __m512 widened(const bf16* p) {
  const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

inline __m512bh pair(const bf16* x) {
  int32_t both;
  std::memcpy(&both, x, sizeof both);
  return (__m512bh)_mm512_set1_epi32(both);
}

inline void prefetch(const void* at) {
  _mm_prefetch(static_cast<const char*>(at) + AHEAD, _MM_HINT_T0);
}

// Sums of one chain wait for each other: few rows need several chains to keep the units busy.
constexpr int chains(int sums) { return sums >= 8 ? 1 : sums >= 4 ? 2 : 4; }

// bfloat16: (N / 16, K / 2, 16, 2), K a multiple of 8.
struct Bf16 {
  const bf16* weight;
  int64_t K;

  // x: the first of M rows, row `first` of all -> their sums with C blocks.
  template <int M, int C>
  void multiply(const bf16* x, int64_t, const int64_t (&blocks)[C], __m512 (&sums)[M][C]) const {
    constexpr int S = chains(M * C);
    __m512 part[M][C][S] = {};
    const bf16* at[C];
    for (int c = 0; c < C; ++c) at[c] = weight + blocks[c] * K * LANES;
    for (int64_t k = 0; k < K; k += 8) {
      for (int i = 0; i < 4; ++i) {
        __m512bh w[C];
        for (int c = 0; c < C; ++c) {
          w[c] = (__m512bh)_mm512_loadu_si512(at[c]);
          if (M <= 2) prefetch(at[c]);
          at[c] += 2 * LANES;
        }
        for (int m = 0; m < M; ++m) {
          const __m512bh both = pair(x + m * K + k + 2 * i);
          for (int c = 0; c < C; ++c) part[m][c][i % S] = _mm512_dpbf16_ps(part[m][c][i % S], w[c], both);
        }
      }
    }
    for (int m = 0; m < M; ++m)
      for (int c = 0; c < C; ++c) {
        sums[m][c] = part[m][c][0];
        for (int i = 1; i < S; ++i) sums[m][c] = _mm512_add_ps(sums[m][c], part[m][c][i]);
      }
  }
};

// 8 bits: (N / 16, K / 2, 2, 16), K a multiple of 8, and a scale for each output.
struct Int8 {
  const int8_t* weight;
  const bf16* scale;
  int64_t K;

  template <int M, int C>
  void multiply(const bf16* x, int64_t, const int64_t (&blocks)[C], __m512 (&sums)[M][C]) const {
    constexpr int S = chains(M * C);
    __m512 part[M][C][S] = {};
    const int8_t* at[C];
    for (int c = 0; c < C; ++c) at[c] = weight + blocks[c] * K * LANES;
    for (int64_t k = 0; k < K; k += 8) {
      for (int i = 0; i < 4; ++i) {
        __m512bh w[C];
        for (int c = 0; c < C; ++c) {
          w[c] = both_of(at[c]);
          if (M <= 2 && i % 2 == 0) prefetch(at[c]);
          at[c] += 2 * LANES;
        }
        for (int m = 0; m < M; ++m) {
          const __m512bh both = pair(x + m * K + k + 2 * i);
          for (int c = 0; c < C; ++c) part[m][c][i % S] = _mm512_dpbf16_ps(part[m][c][i % S], w[c], both);
        }
      }
    }
    for (int m = 0; m < M; ++m)
      for (int c = 0; c < C; ++c) {
        __m512 sum = part[m][c][0];
        for (int i = 1; i < S; ++i) sum = _mm512_add_ps(sum, part[m][c][i]);
        sums[m][c] = _mm512_mul_ps(sum, widened(scale + blocks[c] * LANES));
      }
  }

  // 16 bytes of an input and 16 of the next -> bfloat16 side by side; 8 bits fit, so the lower halves of the floats are 0.
  static __m512bh both_of(const int8_t* at) {
    const __m128i* bytes = reinterpret_cast<const __m128i*>(at);
    const __m512 first = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes)));
    const __m512 second = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes + 1)));
    const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(first), 16);
    return (__m512bh)_mm512_or_si512(low, _mm512_castps_si512(second));
  }
};

// 4 bits: (N / 16, K / 32, 160) words of 16 bits: 4 times 16 outputs times 2, the i-th four bits of a word being input
// 8 j + 2 i + p of the group, then 16 scales and 16 zeros in bfloat16. w = (q - 8) * scale + zero.
struct Int4 {
  static constexpr int64_t WORDS = 160;
  const bf16* weight;
  const float* sums_of_x;  // (M, K / 32): the zero of a group is multiplied by the sum of its inputs
  int64_t K;

  template <int M, int C>
  void multiply(const bf16* x, int64_t first, const int64_t (&blocks)[C], __m512 (&sums)[M][C]) const {
    // -8 ... 7 in bfloat16, twice: the look-up takes five bits of a word, of which one is not ours
    alignas(64) static const bf16 values[32] = {
        0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000,
        0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040,
        0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0};
    const __m512i table = _mm512_load_si512(values);
    constexpr int S = M * C >= 8 ? 1 : 2;
    const int64_t groups = K / GROUP;
    const bf16* at[C];
    for (int c = 0; c < C; ++c) at[c] = weight + blocks[c] * groups * WORDS;
    for (int m = 0; m < M; ++m)
      for (int c = 0; c < C; ++c) sums[m][c] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; ++g) {
      __m512 part[M][C][S] = {};
      for (int j = 0; j < 4; ++j) {
        __m512i words[C];
        for (int c = 0; c < C; ++c) {
          words[c] = _mm512_loadu_si512(at[c] + 2 * LANES * j);
          if (M <= 2) prefetch(at[c] + 2 * LANES * j);
        }
        for (int i = 0; i < 4; ++i) {
          __m512bh w[C];
          for (int c = 0; c < C; ++c) {
            w[c] = (__m512bh)_mm512_permutexvar_epi16(words[c], table);
            words[c] = _mm512_srli_epi16(words[c], 4);
          }
          for (int m = 0; m < M; ++m) {
            const __m512bh both = pair(x + m * K + GROUP * g + 8 * j + 2 * i);
            for (int c = 0; c < C; ++c) part[m][c][i % S] = _mm512_dpbf16_ps(part[m][c][i % S], w[c], both);
          }
        }
      }
      for (int c = 0; c < C; ++c) {
        const __m512 scale = widened(at[c] + 8 * LANES), zero = widened(at[c] + 9 * LANES);
        at[c] += WORDS;
        for (int m = 0; m < M; ++m) {
          __m512 sum = part[m][c][0];
          for (int i = 1; i < S; ++i) sum = _mm512_add_ps(sum, part[m][c][i]);
          const __m512 shift = _mm512_set1_ps(sums_of_x[(first + m) * groups + g]);
          sums[m][c] = _mm512_fmadd_ps(zero, shift, _mm512_fmadd_ps(sum, scale, sums[m][c]));
        }
      }
    }
  }
};

// Rows 0 ... M - 1 of x times C blocks: `emit` gets each row and its sums.
template <int C, class Weight, class Emit>
inline void multiply_rows(const Weight& weight, const bf16* x, int64_t M, const int64_t (&blocks)[C], Emit emit) {
  int64_t row = 0;
  const auto tile = [&](auto rows) {
    constexpr int R = decltype(rows)::value;
    __m512 sums[R][C];
    weight.template multiply<R, C>(x + row * weight.K, row, blocks, sums);
    for (int m = 0; m < R; ++m) emit(row + m, sums[m]);
    row += R;
  };
  while (row + ROWS <= M) tile(std::integral_constant<int, ROWS>());
  if (M - row >= 4) tile(std::integral_constant<int, 4>());
  if (M - row >= 2) tile(std::integral_constant<int, 2>());
  if (M - row >= 1) tile(std::integral_constant<int, 1>());
}

// Sums of each group of x (M, K), for weights of 4 bits: (M, K / 32).
inline void group_sums(const bf16* x, int64_t M, int64_t K, float* sums) {
  for (int64_t g = 0; g < M * K / GROUP; ++g)
    sums[g] = _mm512_reduce_add_ps(_mm512_add_ps(widened(x + GROUP * g), widened(x + GROUP * g + LANES)));
}

}  // namespace
