// x W^T for few rows x.

#include "weights.hpp"

#include <vector>

namespace {

// y: (M, N) of float32 if `wide`, else of bfloat16.
template <class Weight>
void product(const Weight& weight, const bf16* x, int64_t M, const bf16* bias, int64_t N, void* y, int wide, int threads) {
  const int64_t count = (N + LANES - 1) / LANES;
  const auto emit = [&](int64_t row, int64_t block, __m512 sum) {
    const int64_t n = block * LANES;
    const __mmask16 there = static_cast<__mmask16>((1u << std::min(LANES, N - n)) - 1);
    if (bias) {
      const __m256i narrow = _mm256_maskz_loadu_epi16(there, bias + n);
      sum = _mm512_add_ps(sum, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16)));
    }
    if (wide)
      _mm512_mask_storeu_ps(static_cast<float*>(y) + row * N + n, there, sum);
    else
      _mm256_mask_storeu_epi16(static_cast<bf16*>(y) + row * N + n, there, (__m256i)_mm512_cvtneps_pbh(sum));
  };
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < count; block += 2) {
    if (block + 1 < count) {
      multiply_rows<2>(weight, x, M, {block, block + 1}, [&](int64_t row, const __m512* sums) {
        emit(row, block, sums[0]);
        emit(row, block + 1, sums[1]);
      });
    } else {
      multiply_rows<1>(weight, x, M, {block}, [&](int64_t row, const __m512* sums) { emit(row, block, sums[0]); });
    }
  }
}

}  // namespace

// bias (N,) or null.
extern "C" void bf16_rows(const bf16* x, int64_t M, int64_t K, const bf16* weight, const bf16* bias, int64_t N, void* y,
                          int wide, int threads) {
  product(Bf16{weight, K}, x, M, bias, N, y, wide, threads);
}

extern "C" void int8_rows(const bf16* x, int64_t M, int64_t K, const int8_t* weight, const bf16* scale, int64_t N,
                          void* y, int wide, int threads) {
  product(Int8{weight, scale, K}, x, M, nullptr, N, y, wide, threads);
}

extern "C" void int4_rows(const bf16* x, int64_t M, int64_t K, const bf16* weight, int64_t N, void* y, int wide,
                          int threads) {
  std::vector<float> sums(M * K / GROUP);
  group_sums(x, M, K, sums.data());
  product(Int4{weight, sums.data(), K}, x, M, nullptr, N, y, wide, threads);
}
