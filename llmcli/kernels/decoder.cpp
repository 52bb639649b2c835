// The next tokens of each row through all layers of a decoder: norms, rotations, attention over the cache and all
// products in one call. Threads meet five times a layer, or six; torch's operators take longer to be called than most of
// them to compute.
//
// B rows, T new tokens of each, D width, H heads, G key-value heads of which each serves H / G, K head size, F width of
// the feed-forward layer, R positions that the cache has room for. What llmcli.models.transformer.FusedBlock computes;
// between the products sums stay in float32 where torch rounds to bfloat16.

#include <omp.h>

#include <cmath>
#include <vector>

#include "weights.hpp"

namespace {

enum Activation { SWIGLU, RELU2, GELU };
constexpr float EPSILON = 1.1920929e-07f;  // of torch's rms_norm, which computes in float32

struct Layer {
  const void* weight[4];  // qkv (D -> (H + 2 G) K), out, up (gate and up one after the other for swiglu), down
  const bf16* scale[4];   // of 8 bits
};

struct Shape {
  int64_t layers, width, heads, kv_heads, head_size, feed_forward, activation, qk_norm, bits;
};

struct Step {
  const Shape& shape;
  const Layer* layers;
  const bf16 *cos, *sin;   // (positions, K), as of fused_table
  int64_t positions;
  bf16 *keys, *values;     // (layers, B, G, R, K)
  const int64_t* lengths;  // (B,): where the first new token of each row stands
  int64_t rows, tokens, room;
  bf16* x;  // (B, T, D)
  int threads;
  std::vector<bf16> qkv, attended, activated;
};

inline void store(bf16* to, __m512 value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(value));
}

// e^x to float32's precision: 2^n e^r with |r| <= ln 2 / 2, and a polynomial for e^r (Cephes). NaN stays, as in all that
// is computed here: of a minimum and a maximum it is the second argument that does.
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x);
  x = _mm512_min_ps(_mm512_set1_ps(88.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 y = _mm512_set1_ps(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(c));
  y = _mm512_fmadd_ps(y, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(y, n);
}

// x (n) / sqrt(mean of squares); n a multiple of 16.
void rms_norm(const bf16* x, int64_t n, bf16* y) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < n; i += LANES) {
    const __m512 v = widened(x + i);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / n + EPSILON));
  for (int64_t i = 0; i < n; i += LANES) store(y + i, _mm512_mul_ps(widened(x + i), factor));
}

// A head (K) at its position: normalised where the model does, then turned.
void place(const Step& step, const bf16* head, int64_t position, bf16* placed) {
  const int64_t size = step.shape.head_size, half = size / 2;
  position = std::min(position, step.positions - 1);  // of a row that has ended
  const bf16 *cos = step.cos + position * size, *sin = step.sin + position * size;
  bf16 normal[256];
  if (step.shape.qk_norm) {
    rms_norm(head, size, normal);
    head = normal;
  }
  for (int64_t i = 0; i < size; i += LANES) {
    const int64_t other = i < half ? i + half : i - half;
    const __m512 turned = _mm512_mul_ps(widened(head + other), widened(sin + i));
    store(placed + i, _mm512_fmadd_ps(widened(head + i), widened(cos + i), turned));
  }
}

// What a key-value head has of a token, the `token`-th of B * T.
struct Held {
  int64_t position;
  const bf16 *key, *value;  // of the token, the key as it comes from the product
  bf16 *keys, *values;      // of its row, (R, K)

  Held(Step& step, int64_t layer, int64_t token, int64_t group) {
    const Shape& shape = step.shape;
    const int64_t row = token / step.tokens, size = shape.head_size;
    position = step.lengths[row] + token % step.tokens;
    key = step.qkv.data() + (token * (shape.heads + 2 * shape.kv_heads) + shape.heads + group) * size;
    value = key + shape.kv_heads * size;
    const int64_t at_head = ((layer * step.rows + row) * shape.kv_heads + group) * step.room * size;
    keys = step.keys + at_head, values = step.values + at_head;
  }

  // A row that is full has ended, and keeps nothing; neither is padding kept that lies beyond the room.
  void keep(const Step& step, const bf16* placed) const {
    const int64_t size = step.shape.head_size;
    if (position >= step.room) return;
    std::memcpy(keys + position * size, placed, size * sizeof(bf16));
    std::memcpy(values + position * size, value, size * sizeof(bf16));
  }
};

// The query of a head of a token over all keys before it in its row and its own; P = K / 32. scores: room for R + 1 and 16
// more. What stands before must be kept; its own key and value are kept here where they are the only new ones of the row.
template <int P>
void attend(Step& step, int64_t layer, int64_t token, int64_t head, float* scores) {
  const Shape& shape = step.shape;
  constexpr int64_t size = 32 * P;
  const int64_t shared = shape.heads / shape.kv_heads;
  const Held held(step, layer, token, head / shared);
  const int64_t filled = std::min(held.position, step.room);
  const bf16 *keys = held.keys, *values = held.values, *value = held.value;
  alignas(64) bf16 query[size], key[size];
  place(step, step.qkv.data() + (token * (shape.heads + 2 * shape.kv_heads) + head) * size, held.position, query);
  place(step, held.key, held.position, key);
  if (step.tokens == 1 && head % shared == 0) held.keep(step, key);  // one of the heads that share them
  __m512bh q[P];
  for (int p = 0; p < P; ++p) q[p] = (__m512bh)_mm512_loadu_si512(query + 32 * p);
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  float highest = -INFINITY;
  for (int64_t s = 0; s <= filled; ++s) {
    const bf16* at = s < filled ? keys + s * size : key;
    __m512 sum = _mm512_setzero_ps();
    for (int p = 0; p < P; ++p) sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(at + 32 * p), q[p]);
    scores[s] = scale * _mm512_reduce_add_ps(sum);
    highest = std::max(highest, scores[s]);
  }
  for (int64_t s = filled + 1; s % LANES; ++s) scores[s] = -INFINITY;
  __m512 total = _mm512_setzero_ps();
  for (int64_t s = 0; s <= filled; s += LANES) {
    const __m512 distance = _mm512_sub_ps(_mm512_loadu_ps(scores + s), _mm512_set1_ps(highest));
    const __mmask16 real = _mm512_cmp_ps_mask(distance, _mm512_set1_ps(-INFINITY), _CMP_NEQ_UQ);
    const __m512 weight = _mm512_maskz_mov_ps(real, exponential(distance));
    total = _mm512_add_ps(total, weight);
    _mm512_storeu_ps(scores + s, weight);
  }
  // the values at even and at odd places are summed apart: so they need no shuffling to become float32
  __m512 even[P] = {}, odd[P] = {};
  for (int64_t s = 0; s <= filled; ++s) {
    const bf16* at = s < filled ? values + s * size : value;
    const __m512 weight = _mm512_set1_ps(scores[s]);
    for (int p = 0; p < P; ++p) {
      const __m512i pairs = _mm512_loadu_si512(at + 32 * p);
      even[p] = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), weight, even[p]);
      const __m512i upper = _mm512_and_si512(pairs, _mm512_set1_epi32(0xFFFF0000));
      odd[p] = _mm512_fmadd_ps(_mm512_castsi512_ps(upper), weight, odd[p]);
    }
  }
  const __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
  bf16* y = step.attended.data() + (token * shape.heads + head) * size;
  for (int p = 0; p < P; ++p) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(even[p], share)));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(odd[p], share)));
    _mm512_storeu_si512(y + 32 * p, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
}

void attend_one(Step& step, int64_t layer, int64_t token, int64_t head, float* scores) {
  switch (step.shape.head_size / 32) {
    case 1: return attend<1>(step, layer, token, head, scores);
    case 2: return attend<2>(step, layer, token, head, scores);
    case 3: return attend<3>(step, layer, token, head, scores);
    case 4: return attend<4>(step, layer, token, head, scores);
    case 8: return attend<8>(step, layer, token, head, scores);
  }
}

void keep_one(Step& step, int64_t layer, int64_t token, int64_t group) {
  alignas(64) bf16 key[256];
  const Held held(step, layer, token, group);
  place(step, held.key, held.position, key);
  held.keep(step, key);
}

inline __m512 activated(int64_t activation, __m512 x) {
  if (activation == RELU2) {
    const __m512 positive = _mm512_max_ps(_mm512_setzero_ps(), x);
    return _mm512_mul_ps(positive, positive);
  }
  if (activation == SWIGLU) {  // of the gate: x / (1 + e^-x)
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(x, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
  }
  alignas(64) float each[LANES];
  _mm512_store_ps(each, x);
  for (float& value : each) value *= 0.5f * (1.0f + std::erf(value * 0.70710678f));
  return _mm512_load_ps(each);
}

// What a thread does of `count` things.
struct Part {
  int64_t first, end;
  Part(int64_t count, int threads, int thread) : first(count * thread / threads), end(count * (thread + 1) / threads) {}
};

template <class Make>
void run(Step& step, Make weight_of, int thread) {
  const Shape& shape = step.shape;
  const int64_t M = step.rows * step.tokens, D = shape.width, F = shape.feed_forward;
  const int64_t inner = shape.heads * shape.head_size, all = shape.heads + 2 * shape.kv_heads;
  std::vector<bf16> normal(M * D);
  std::vector<float> sums(shape.bits == 4 ? M * std::max({D, F, inner}) / GROUP : 0), scores(step.room + 1 + LANES);
  const auto normalise = [&] {
    for (int64_t m = 0; m < M; ++m) rms_norm(step.x + m * D, D, normal.data() + m * D);
  };
  // y (M, N) gets what `take` makes of a block of sums
  const auto into = [&](bf16* y, int64_t N, const Layer& layer, int which, const bf16* from, int64_t K, auto take) {
    const auto weight = weight_of(layer, which, from, M, K, sums.data());
    const Part part(N / LANES, step.threads, thread);
    const auto keep = [&](int64_t row, int64_t block, __m512 sum) {
      bf16* to = y + row * N + block * LANES;
      store(to, take(to, sum));
    };
    int64_t block = part.first;
    for (; block + 1 < part.end; block += 2)
      multiply_rows<2>(weight, from, M, {block, block + 1}, [&](int64_t row, const __m512* both) {
        keep(row, block, both[0]);
        keep(row, block + 1, both[1]);
      });
    if (block < part.end)
      multiply_rows<1>(weight, from, M, {block}, [&](int64_t row, const __m512* one) { keep(row, block, one[0]); });
  };
  const auto itself = [](const bf16*, __m512 sum) { return sum; };
  const auto added = [](const bf16* to, __m512 sum) { return _mm512_add_ps(widened(to), sum); };
  for (int64_t l = 0; l < shape.layers; ++l) {
    const Layer& layer = step.layers[l];
    normalise();
    into(step.qkv.data(), all * shape.head_size, layer, 0, normal.data(), D, itself);
#pragma omp barrier
    if (step.tokens > 1) {
      const Part groups(M * shape.kv_heads, step.threads, thread);
      for (int64_t i = groups.first; i < groups.end; ++i) keep_one(step, l, i / shape.kv_heads, i % shape.kv_heads);
#pragma omp barrier
    }
    // Of one token, neighbours share their keys; of many, the later have more of them.
    const bool dealt = step.tokens > 1;
    const int64_t n_heads = M * shape.heads, every = dealt ? step.threads : 1;
    const Part part(n_heads, step.threads, thread);
    for (int64_t i = dealt ? thread : part.first; i < (dealt ? n_heads : part.end); i += every)
      attend_one(step, l, i / shape.heads, i % shape.heads, scores.data());
#pragma omp barrier
    into(step.x, D, layer, 1, step.attended.data(), inner, added);
#pragma omp barrier
    normalise();
    if (shape.activation == SWIGLU) {  // a gate and what it lets through in the same hands
      const auto weight = weight_of(layer, 2, normal.data(), M, D, sums.data());
      const Part part(F / LANES, step.threads, thread);
      for (int64_t block = part.first; block < part.end; ++block)
        multiply_rows<2>(weight, normal.data(), M, {block, block + F / LANES}, [&](int64_t row, const __m512* both) {
          store(step.activated.data() + row * F + block * LANES, _mm512_mul_ps(activated(SWIGLU, both[0]), both[1]));
        });
    } else {
      into(step.activated.data(), F, layer, 2, normal.data(), D,
           [&](const bf16*, __m512 sum) { return activated(shape.activation, sum); });
    }
#pragma omp barrier
    into(step.x, D, layer, 3, step.activated.data(), F, added);
#pragma omp barrier
  }
  const Part rows(M, step.threads, thread);
  for (int64_t m = rows.first; m < rows.end; ++m) rms_norm(step.x + m * D, D, step.x + m * D);
}

}  // namespace

// x (B, T, D): the embedded tokens; they become what the last layer gives, normalised. The cache gets T positions more.
extern "C" void decoder_step(const Shape* shape, const Layer* layers, const bf16* cos, const bf16* sin, int64_t positions,
                             bf16* keys, bf16* values, const int64_t* lengths, int64_t rows, int64_t tokens, int64_t room,
                             bf16* x, int threads) {
  const int64_t inner = shape->heads * shape->head_size, all = inner + 2 * shape->kv_heads * shape->head_size;
  Step step{*shape, layers, cos, sin, positions, keys, values, lengths, rows, tokens, room, x, threads, {}, {}, {}};
  step.qkv.resize(rows * tokens * all);
  step.attended.resize(rows * tokens * inner);
  step.activated.resize(rows * tokens * shape->feed_forward);
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
#pragma omp single
    step.threads = omp_get_num_threads();  // perhaps fewer than were asked for
    if (shape->bits == 16) {
      run(step, [](const Layer& layer, int i, const bf16*, int64_t, int64_t K, float*) {
        return Bf16{static_cast<const bf16*>(layer.weight[i]), K};
      }, thread);
    } else if (shape->bits == 8) {
      run(step, [](const Layer& layer, int i, const bf16*, int64_t, int64_t K, float*) {
        return Int8{static_cast<const int8_t*>(layer.weight[i]), layer.scale[i], K};
      }, thread);
    } else {
      run(step, [](const Layer& layer, int i, const bf16* from, int64_t M, int64_t K, float* sums) {
        group_sums(from, M, K, sums);
        return Int4{static_cast<const bf16*>(layer.weight[i]), sums, K};
      }, thread);
    }
  }
}
