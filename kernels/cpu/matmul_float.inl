// Products with unquantized weights: one chain of fused multiply-adds over the columns per output, so speed comes from
// many chains at a time. Included inside an anonymous namespace after matmul_driver.inl. A Lanes type has
//   vec, width    f32 vector and its number of lanes, a divisor of 16
//   chains        how many accumulators the register file has room for
//   load(const T*) with T = float, f16 and bf16 below; splat(const float*), fma(a, b, c), get(const float*),
//   put(float*, vec), zero()

struct f16 {
  std::uint16_t bits;
};
struct bf16 {
  std::uint16_t bits;
};

/// Adds n columns to the outputs of R tiles, `tile_step` elements apart, and T rows of x. E is what weights are stored as.
template <class Lanes, int R, int T, class E>
[[gnu::noinline]] void run_float(const E* w, std::size_t tile_step, std::uint32_t n, const float* x, std::size_t ld_x, float* y,
               std::size_t ld_y, bool from_zero) {
  constexpr int parts = 16 / Lanes::width;
  typename Lanes::vec acc[R][parts][T];
  const auto each = [&](auto&& f) __attribute__((always_inline)) {
    unroll<R>([&](auto r) __attribute__((always_inline)) {
      unroll<parts>([&](auto p) __attribute__((always_inline)) {
        unroll<T>([&](auto t) __attribute__((always_inline)) {
          f(acc[r][p][t], y + t * ld_y + 16 * r + Lanes::width * p);
        });
      });
    });
  };
  each([&](auto& a, float* at) __attribute__((always_inline)) { a = from_zero ? Lanes::zero() : Lanes::get(at); });
  for (std::uint32_t k = 0; k < n; ++k) {
    typename Lanes::vec a[T];
    unroll<T>([&](auto t) __attribute__((always_inline)) { a[t] = Lanes::splat(x + t * ld_x + k); });
    unroll<R>([&](auto r) __attribute__((always_inline)) {
      unroll<parts>([&](auto p) __attribute__((always_inline)) {
        const auto weights = Lanes::load(w + r * tile_step + std::size_t{k} * 16 + Lanes::width * p);
        unroll<T>([&](auto t) __attribute__((always_inline)) {
          acc[r][p][t] = Lanes::fma(weights, a[t], acc[r][p][t]);
        });
      });
    });
  }
  each([&](auto& a, float* at) __attribute__((always_inline)) { Lanes::put(at, a); });
}

template <class Lanes>
constexpr int max_float_rows = Lanes::chains * Lanes::width / 16 < 8 ? Lanes::chains * Lanes::width / 16 : 8;

/// f(std::integral_constant) with as many rows as are left and fit.
template <class Lanes, class F>
[[gnu::always_inline]] inline std::uint32_t with_rows(std::uint32_t left, F&& f) {
  constexpr std::uint32_t most = max_float_rows<Lanes>;
  const std::uint32_t now = smaller(left, most);
  unroll<most>([&](auto t) __attribute__((always_inline)) {
    constexpr int rows = decltype(t)::value + 1;
    if (now == rows) f(std::integral_constant<int, rows>{});
  });
  return now;
}

template <class Lanes, class E>
void matmul_float_few(const packed_matrix& w, std::uint32_t first_tile, std::uint32_t last_tile, const activations& x,
                      std::uint32_t m, float* y, std::size_t ld_y) {
  const std::size_t tile_step = tile_bytes(w.type, w.cols) / sizeof(E);
  const E* const weights = reinterpret_cast<const E*>(w.data);
  const std::uint32_t whole_end = smaller(last_tile, w.rows / tile_rows);
  with_rows<Lanes>(m, [&](auto t) __attribute__((always_inline)) {
    constexpr int T = decltype(t)::value;
    constexpr int R = Lanes::chains * Lanes::width / 16 / T;
    std::uint32_t tile = first_tile;
    for (; tile + R <= whole_end; tile += R)
      run_float<Lanes, R, T>(weights + tile * tile_step, tile_step, w.cols, x.rows, x.ld, y + tile * tile_rows, ld_y,
                             true);
    for (; tile < last_tile; ++tile) {
      const std::uint32_t n0 = tile * tile_rows;
      with_output(y + n0, ld_y, smaller(tile_rows, w.rows - n0), m, true, [&](output out) {
        run_float<Lanes, 1, T>(weights + tile * tile_step, 0, w.cols, x.rows, x.ld, out.y, out.ld, true);
      });
    }
  });
}

/// As matmul_many: a piece of a tile, widened to f32, stays in the first-level cache while it meets many rows.
template <class Lanes, class E>
void matmul_float_many(const packed_matrix& w, std::uint32_t first_tile, std::uint32_t last_tile, const activations& x,
                       std::uint32_t m, float* y, std::size_t ld_y) {
  constexpr std::uint32_t rows_at_once = 128, piece = 256;
  alignas(64) float panel[piece * tile_rows];
  const std::size_t tile_step = tile_bytes(w.type, w.cols) / sizeof(E);
  const E* const weights = reinterpret_cast<const E*>(w.data);
  for (std::uint32_t from = 0; from < m; from += rows_at_once) {
    const std::uint32_t to = smaller(m, from + rows_at_once);
    for (std::uint32_t k0 = 0; k0 < w.cols; k0 += piece) {
      const std::uint32_t n = smaller(piece, w.cols - k0);
      for (std::uint32_t tile = first_tile; tile < last_tile; ++tile) {
        const E* const source = weights + tile * tile_step + std::size_t{k0} * tile_rows;
        for (std::uint32_t i = 0; i < n * tile_rows; i += Lanes::width) Lanes::put(panel + i, Lanes::load(source + i));
        const std::uint32_t n0 = tile * tile_rows, n_rows = smaller(tile_rows, w.rows - n0);
        for (std::uint32_t r = from; r < to;) {
          r += with_rows<Lanes>(to - r, [&](auto t) __attribute__((always_inline)) {
            constexpr int T = decltype(t)::value;
            with_output(y + r * ld_y + n0, ld_y, n_rows, T, k0 == 0, [&](output out) {
              run_float<Lanes, 1, T>(panel, 0, n, x.rows + r * x.ld + k0, x.ld, out.y, out.ld, out.from_zero);
            });
          });
        }
      }
    }
  }
}

template <class Lanes, class E>
void matmul_float(const packed_matrix& w, std::uint32_t first_tile, std::uint32_t last_tile, const activations& x,
                  std::uint32_t m, float* y, std::size_t ld_y) {
  if (m == 0) return;
  if (m <= static_cast<std::uint32_t>(max_float_rows<Lanes>))
    matmul_float_few<Lanes, E>(w, first_tile, last_tile, x, m, y, ld_y);
  else
    matmul_float_many<Lanes, E>(w, first_tile, last_tile, x, m, y, ld_y);
}

/// The whole product for any type.
template <class Tier, class Lanes>
void matmul_any(const packed_matrix& w, std::uint32_t first_tile, std::uint32_t last_tile, const activations& x,
                std::uint32_t m, float* y, std::size_t ld_y) {
  switch (w.type) {
    case dtype::f32: return matmul_float<Lanes, float>(w, first_tile, last_tile, x, m, y, ld_y);
    case dtype::f16: return matmul_float<Lanes, f16>(w, first_tile, last_tile, x, m, y, ld_y);
    case dtype::bf16: return matmul_float<Lanes, bf16>(w, first_tile, last_tile, x, m, y, ld_y);
    default: return matmul_quantized<Tier>(w, first_tile, last_tile, x.groups, m, y, ld_y);
  }
}
