// Loops around a tier's `run`, included inside an anonymous namespace. A Tier has
//   max_rows      how many activation rows `run` takes at most
//   direct_rows   up to so many activation rows, codes are taken straight out of the packed tile
//   panel<L>      one group of a tile with its codes unpacked, filled by unpack<L>(tile_view<L>, group, panel<L>&)
//   run<L, T>(source, n_groups, x, x_step, out, ld, from_zero)
//                 adds n_groups groups (from source(0) on) to T x 16 outputs; T groups of x lie side by side, the next
//                 ones x_step further.

// Not std::min: a copy of it made for this tier could be the one that others link to.
[[gnu::always_inline]] inline std::uint32_t smaller(std::uint32_t a, std::uint32_t b) { return a < b ? a : b; }

template <layout L>
struct packed_source {
  tile_view<L> tile;
  std::uint32_t first;
};

struct output {
  float* y;
  std::size_t ld;
  bool from_zero;
};

/// All rows of one row block, at most Tier::max_rows at a time.
template <class Tier, layout L, class Source>
[[gnu::always_inline]] inline void run_block(const Source& source, std::uint32_t n_groups, const activation_group* x,
                                             std::uint32_t n_x, output out) {
  std::uint32_t done = 0;
  const auto take = [&](auto t) __attribute__((always_inline)) {
    Tier::template run<L, decltype(t)::value>(source, n_groups, x + done, n_x, out.y + done * out.ld, out.ld,
                                              out.from_zero);
    done += decltype(t)::value;
  };
  while (n_x - done >= Tier::max_rows) take(std::integral_constant<int, Tier::max_rows>{});
  const std::uint32_t rest = n_x - done;
  unroll<Tier::max_rows>([&](auto t) __attribute__((always_inline)) {
    if constexpr (decltype(t)::value > 0)
      if (rest == decltype(t)::value) take(t);
  });
}

/// Lends a tile's run 16 columns of output even where the matrix has fewer rows left.
template <class F>
[[gnu::always_inline]] inline void with_output(float* y, std::size_t ld, std::uint32_t n_rows, std::uint32_t n_x,
                                               bool from_zero, F&& f) {
  float whole[row_block * tile_rows];
  const bool partial = n_rows < tile_rows;
  if (partial && !from_zero)
    for (std::uint32_t i = 0; i < n_x; ++i)
      for (std::uint32_t r = 0; r < tile_rows; ++r) whole[i * tile_rows + r] = r < n_rows ? y[i * ld + r] : 0.0f;
  f(partial ? output{whole, tile_rows, from_zero} : output{y, ld, from_zero});
  if (partial)
    for (std::uint32_t i = 0; i < n_x; ++i)
      for (std::uint32_t r = 0; r < n_rows; ++r) y[i * ld + r] = whole[i * tile_rows + r];
}

template <class Tier, layout L>
void matmul_few(const packed_matrix& w, std::uint32_t first_tile, std::uint32_t last_tile, const activation_group* x,
                std::uint32_t m, float* y, std::size_t ld_y) {
  const std::uint32_t n_groups = w.cols / group_size;
  for (std::uint32_t tile = first_tile; tile < last_tile; ++tile) {
    const std::uint32_t n0 = tile * tile_rows;
    const tile_view<L> view{w.data + tile * L.tile_bytes(w.cols)};
    for (std::uint32_t m0 = 0; m0 < m; m0 += row_block) {
      const std::uint32_t n_x = smaller(row_block, m - m0);
      with_output(y + m0 * ld_y + n0, ld_y, smaller(tile_rows, w.rows - n0), n_x, true, [&](output out) {
        run_block<Tier, L>(packed_source<L>{view, 0}, n_groups, x + quantized_index(m0, 0, m, w.cols), n_x, out);
      });
    }
  }
}

/// Many rows: a piece of a tile is unpacked once and stays in the first-level cache while it meets `rows_at_once` rows
/// of activations, whose piece stays in the second-level cache while it meets all tiles.
template <class Tier, layout L>
void matmul_many(const packed_matrix& w, std::uint32_t first_tile, std::uint32_t last_tile, const activation_group* x,
                 std::uint32_t m, float* y, std::size_t ld_y) {
  constexpr std::uint32_t rows_at_once = 128, max_panel = 24;
  static_assert(sizeof(typename Tier::template panel<L>) * max_panel <= 32 * 1024);
  alignas(64) typename Tier::template panel<L> panels[max_panel];
  const std::uint32_t n_groups = w.cols / group_size;
  const std::uint32_t n_pieces = (n_groups + max_panel - 1) / max_panel;
  const std::uint32_t piece = (n_groups + n_pieces - 1) / n_pieces;
  for (std::uint32_t from = 0; from < m; from += rows_at_once) {
    const std::uint32_t to = smaller(m, from + rows_at_once);
    for (std::uint32_t g0 = 0; g0 < n_groups; g0 += piece) {
      const std::uint32_t n = smaller(piece, n_groups - g0);
      for (std::uint32_t tile = first_tile; tile < last_tile; ++tile) {
        const tile_view<L> view{w.data + tile * L.tile_bytes(w.cols)};
        for (std::uint32_t g = 0; g < n; ++g) Tier::template unpack<L>(view, g0 + g, panels[g]);
        const std::uint32_t n0 = tile * tile_rows, n_rows = smaller(tile_rows, w.rows - n0);
        for (std::uint32_t m0 = from; m0 < to; m0 += row_block) {
          const std::uint32_t n_x = smaller(row_block, to - m0);
          with_output(y + m0 * ld_y + n0, ld_y, n_rows, n_x, g0 == 0, [&](output out) {
            run_block<Tier, unpacked(L)>(&panels[0], n, x + quantized_index(m0, g0, m, w.cols), n_x, out);
          });
        }
      }
    }
  }
}

template <class Tier>
void matmul_quantized(const packed_matrix& w, std::uint32_t first_tile, std::uint32_t last_tile,
                      const activation_group* x, std::uint32_t m, float* y, std::size_t ld_y) {
  with_layout(w.type, [&](auto l) {
    constexpr layout chosen = decltype(l)::value;
    if (m <= Tier::direct_rows)
      matmul_few<Tier, chosen>(w, first_tile, last_tile, x, m, y, ld_y);
    else
      matmul_many<Tier, chosen>(w, first_tile, last_tile, x, m, y, ld_y);
  });
}
