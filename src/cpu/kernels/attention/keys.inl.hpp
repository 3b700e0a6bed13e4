// src/cpu/kernels/attention/keys.inl.hpp: rows of k or of v, chunk by chunk: where they lie, or copied together while the window sees them.
//
// With heads inside a row of the tensor, (B, L, H, D), the rows of a head are H D elements apart: often by a power of two, and then all of
// them share few sets of each cache, too few for a window. Halves are widened, and many blocks of queries see a key. So each row is copied
// once, as the window reaches it, into a ring as long as the window, as the products read it.
//
//   keys   ... [begin ....... end) ...      held; key c lies in slot c modulo the number of slots
//   ring   [ slot 0, 1, 2 ....... slots - 1 | slot 0, 1 .. once more, so that the keys of a chunk lie together ]
#pragma once

#include "cpu/kernels/attention/rows.inl.hpp"

namespace window_matmul::cpu {
namespace {

template <Simd S, class E>
struct Keys {
  using T = typename S::Scalar;

  const Gather<S, E>& gather;
  const Operand& from;
  const index_t columns;
  const Held& ring;
  T* const packed;  // [keys of a chunk][padded columns]
  const bool is_held = ring.keys > 0 && (!std::is_same_v<E, T> || gather.are_apart(from, columns));
  const index_t stride = padded(columns);

  // as_vectors: whole vectors of a row are going to be read.
  KeyRows<T> rows(const Chunk& chunk, bool as_vectors) const {
    if (!is_held || chunk.list != nullptr) return gather.keys(from, chunk, columns, as_vectors, packed);
    hold(chunk.keys);
    return {slot(chunk.keys.begin % ring.keys), stride, 1};
  }

  T* slot(index_t n) const { return static_cast<T*>(ring.data) + n * stride; }

  void hold(Range keys) const {
    HeldRows& held = *ring.rows;
    const AttentionGeometry& walk = gather.walk;
    const bool same = held.address == from.address && held.first_key == walk.first_key && held.step == walk.step;
    if (!same || keys.begin < held.keys.begin || held.keys.end < keys.begin)
      held = {from.address, walk.first_key, walk.step, {keys.begin, keys.begin}};
    if (keys.end <= held.keys.end) return;
    copy({held.keys.end, keys.end});
    held.keys = {larger(held.keys.begin, keys.end - ring.keys), keys.end};
  }

  void copy(Range keys) const {
    index_t n = keys.begin % ring.keys;
    for (index_t key = keys.begin; key < keys.end; ++key) {
      const index_t position = gather.walk.key(key);
      gather.row(from, position, columns, slot(n));
      if (n < kHeldTwice) gather.row(from, position, columns, slot(ring.keys + n));
      if (++n == ring.keys) n = 0;
    }
  }
};

}  // namespace
}  // namespace window_matmul::cpu
