// Softcap and cross entropy over rows of logits: what trainer/head.py does with torch, where each of a dozen operations
// goes through memory and tanh costs more than the rest together.
//
// With r = sigmoid(-2 z / cap) the capped logit is cap tanh(z / cap) = cap - 2 cap r, and the slope of the cap 4 r (1 - r).
// So p = exp(-2 cap r) needs no maximum to subtract. A row's gradients wait in float32, in the cache, for its sum.

#include <torch/csrc/inductor/cpp_prefix.h>

#include <cmath>
#include <tuple>
#include <type_traits>
#include <vector>

using Vec = at::vec::Vectorized<float>;

// 2^x to about 2e-7 relative, for |x| < 2^20. The library's exp spends half its time on ranges and signs.
static inline Vec exp2_fast(const Vec& x) {
#if defined(CPU_CAPABILITY_AVX512) && defined(__AVX512F__)
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);  // in [-1/2, 1/2]; the coefficients fit 2^part there, minimax
  __m512 power = _mm512_fmadd_ps(_mm512_set1_ps(1.3264727e-3f), part, _mm512_set1_ps(9.671513e-3f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(5.5507336e-2f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(2.4022242e-1f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(6.931470e-1f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(power, whole);  // saturates at infinity and at zero
#else
  return (x * Vec(0.6931471805599453f)).exp_u20();
#endif
}

// 1 / x to about 1e-7 relative, for x >= 1, infinity included
static inline Vec reciprocal_fast(const Vec& x) {
#if defined(CPU_CAPABILITY_AVX512) && defined(__AVX512F__)
  const __m512 rough = _mm512_rcp14_ps(x);
  const __m512 error = _mm512_fnmadd_ps(_mm512_min_ps(x, _mm512_set1_ps(1e38f)), rough, _mm512_set1_ps(1.0f));
  return _mm512_fmadd_ps(rough, error, rough);
#else
  return x.reciprocal();
#endif
}

template <typename scalar_t>
static std::tuple<Vec, Vec> load_pair(const scalar_t* source) {
  if constexpr (std::is_same_v<scalar_t, float>) {
    return {Vec::loadu(source), Vec::loadu(source + Vec::size())};
  } else {
    return at::vec::convert_to_float<scalar_t>(at::vec::Vectorized<scalar_t>::loadu(source));
  }
}

template <typename scalar_t>
static void store_pair(scalar_t* target, const Vec& first, const Vec& second) {
  if constexpr (std::is_same_v<scalar_t, float>) {
    first.store(target);
    second.store(target + Vec::size());
  } else {
    at::vec::convert_from_float<scalar_t>(first, second).store(target);
  }
}

template <typename scalar_t>
static void scale_into(scalar_t* target, const float* source, int64_t columns, float factor) {
  constexpr int64_t width = 2 * Vec::size();
  const Vec by(factor);
  int64_t i = 0;
  for (; i + width <= columns; i += width)
    store_pair(target + i, Vec::loadu(source + i) * by, Vec::loadu(source + i + Vec::size()) * by);
  for (; i < columns; ++i) target[i] = static_cast<scalar_t>(source[i] * factor);
}

// Loss of each row of logits (rows x columns), which are replaced by factor * d loss / d logits; kept where it is zero.
template <typename scalar_t>
static void softcap_cross_entropy(
    scalar_t* logits, const int64_t* targets, float* loss, int64_t rows, int64_t columns, float softcap, float factor) {
  const float to_r = 2.0f / softcap, to_p = -2.0f * softcap, log2_e = 1.4426950408889634f;
  constexpr int64_t width = 2 * Vec::size();
#pragma omp parallel
  {
    std::vector<float> slopes(columns);  // p r (1 - r), the gradient but for 4 factor / total
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      scalar_t* z = logits + row * columns;
      const Vec one(1.0f), to_r_vec(to_r * log2_e), to_p_vec(to_p * log2_e);
      Vec first_sum(0.0f), second_sum(0.0f);
      int64_t i = 0;
      for (; i + width <= columns; i += width) {
        const auto [z0, z1] = load_pair(z + i);
        const Vec r0 = reciprocal_fast(exp2_fast(z0 * to_r_vec) + one);
        const Vec r1 = reciprocal_fast(exp2_fast(z1 * to_r_vec) + one);
        const Vec p0 = exp2_fast(r0 * to_p_vec), p1 = exp2_fast(r1 * to_p_vec);
        first_sum = first_sum + p0;
        second_sum = second_sum + p1;
        (p0 * (r0 - r0 * r0)).store(slopes.data() + i);
        (p1 * (r1 - r1 * r1)).store(slopes.data() + i + Vec::size());
      }
      double total = at::vec::vec_reduce_all<float>([](Vec& x, Vec& y) { return x + y; }, first_sum + second_sum);
      for (; i < columns; ++i) {
        const float r = 1.0f / (std::exp(static_cast<float>(z[i]) * to_r) + 1.0f), p = std::exp(r * to_p);
        total += p;
        slopes[i] = p * (r - r * r);
      }
      const float r = 1.0f / (std::exp(static_cast<float>(z[targets[row]]) * to_r) + 1.0f), p = std::exp(r * to_p);
      loss[row] = static_cast<float>(std::log(total)) - r * to_p;
      if (factor == 0.0f) continue;
      slopes[targets[row]] = (p - static_cast<float>(total)) * (r - r * r);
      scale_into(z, slopes.data(), columns, static_cast<float>(4.0 * factor / total));
    }
  }
}

extern "C" void softcap_cross_entropy_bfloat16(
    at::BFloat16* logits, const int64_t* targets, float* loss, int64_t rows, int64_t columns, float softcap, float factor) {
  softcap_cross_entropy(logits, targets, loss, rows, columns, softcap, factor);
}

extern "C" void softcap_cross_entropy_float32(
    float* logits, const int64_t* targets, float* loss, int64_t rows, int64_t columns, float softcap, float factor) {
  softcap_cross_entropy(logits, targets, loss, rows, columns, softcap, factor);
}
