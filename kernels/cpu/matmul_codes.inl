// Codes of one slice out of the planes of a group, for a vector type V of the including tier that has load, and_, or_,
// shift (positive: left, by a constant, in 16-bit lanes), splat and lookup. Included inside an anonymous namespace.

/// `bit`: where the field starts in its byte; `to`: where it shall start; `width` bits.
template <class V, int From, int To, int Width>
[[gnu::always_inline]] inline V field(V v) {
  // Shifts move bits across bytes; the mask drops them.
  return and_(shift<To - From>(v), splat<V>(static_cast<char>(((1 << Width) - 1) << To)));
}

/// Slice J of the rows that start `row_offset` bytes into a slice: codes in [0, 2^bits), or signed for 8 bits and tables.
template <layout L, class V, int J>
[[gnu::always_inline]] inline V codes_of_slice(const std::byte* group, int row_offset) {
  const std::byte* at = group + row_offset;
  if constexpr (L.bits == 8) {
    return load<V>(at + 64 * J);
  } else if constexpr (L.bits <= 3) {
    V v = field<V, J / 2 * 2, 0, 2>(load<V>(at + 64 * (J % 2)));
    if constexpr (L.bits == 3) v = or_(v, field<V, J, 2, 1>(load<V>(at + L.bit_plane())));
    return v;
  } else {
    V v = field<V, J / 4 * 4, 0, 4>(load<V>(at + 64 * (J % 4)));
    if constexpr (L.values == table::iq4) return lookup(iq4_values, v);
    if constexpr (L.values == table::mxfp4) return lookup(mxfp4_values, v);
    if constexpr (L.bits == 5) v = or_(v, field<V, J, 4, 1>(load<V>(at + L.bit_plane())));
    if constexpr (L.bits == 6) v = or_(v, field<V, J / 2 * 2, 4, 2>(load<V>(at + L.pair_plane() + 64 * (J % 2))));
    return v;
  }
}
