// src/cuda/kernels/band/softmax.cuh: p = softmax over the slots of a row that have a key, and its backward d = p (g - sum of p g). Zeros
// elsewhere.
//
//   As few threads a row as hold it in registers, 8 to 256: each element is read once and written once. Rows that 256 threads cannot hold
//   are read twice: for the sums, piece by piece, and for the results.
//   A row of -inf alone, or without keys, gives zeros. A NaN makes its row NaN, since no maximum turns it into a number.
//
//   shared memory   256 threads a row: a number of each warp, twice
#pragma once

#include <limits>

#include "cuda/kernels/band/softmax_row.cuh"

namespace window_matmul::cuda {

template <class E, int Lanes>
struct Softmax {
  using Row = SoftmaxRow<E, Lanes, softmax_chunks(false, sizeof(E))>;
  using Sum = typename Row::Sum;
  using Values = typename Row::Values;
  static constexpr Sum kLowest = -std::numeric_limits<Sum>::infinity();

  const Row& row;
  std::uint32_t& turn;

  WINDOW_MATMUL_DEVICE static Sum higher(Sum a, Sum b) { return a < b ? b : a; }
  WINDOW_MATMUL_DEVICE static Sum plus(Sum a, Sum b) { return a + b; }
  WINDOW_MATMUL_DEVICE static Sum offset_of(Sum highest) { return highest == kLowest ? Sum{0} : highest; }  // -inf - -inf is no number
  WINDOW_MATMUL_DEVICE static Sum scale_of(Sum total) { return total == 0 ? Sum{0} : Sum{1} / total; }

  WINDOW_MATMUL_DEVICE static Sum highest_of(const Values& values, Sum highest) {
    WINDOW_MATMUL_UNROLL
    for (const auto& chunk : values) {
      WINDOW_MATMUL_UNROLL
      for (const Sum value : chunk) highest = higher(highest, value);
    }
    return highest;
  }
  // Each value becomes its exponential; the sum of all.
  WINDOW_MATMUL_DEVICE Sum exponentials_of(Values& values, Sum offset) const {
    const int rounds = row.rounds();
    Sum total = 0;
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < Row::kChunks; ++n) {
      if (n >= rounds) continue;
      WINDOW_MATMUL_UNROLL
      for (Sum& value : values[n]) total += value = exponential(value - offset);
    }
    return total;
  }

  WINDOW_MATMUL_DEVICE void run() const {
    Values values;
    row.load(values, row.item.x, 0, kLowest);
    const Sum offset = offset_of(combine<Lanes>(highest_of(values, kLowest), turn, higher));
    const Sum scale = scale_of(combine<Lanes>(exponentials_of(values, offset), turn, plus));
    row.store(0, [&](int n, int e) { return values[n][e] * scale; });
  }

  // Each thread keeps its own maximum, and its sum of exponentials below that one.
  WINDOW_MATMUL_DEVICE void run_in_pieces() const {
    Values values;
    Sum highest = kLowest, total = 0;
    WINDOW_MATMUL_NO_UNROLL
    for (index_t piece = 0; piece < row.pieces(); ++piece) {
      row.load(values, row.item.x, piece, kLowest);
      const Sum before = highest;
      highest = highest_of(values, highest);
      total = total * exponential(before - offset_of(highest)) + exponentials_of(values, offset_of(highest));
    }
    const Sum offset = offset_of(combine<Lanes>(highest, turn, higher));
    Sum factor = exponential(highest - offset);
    const Sum scale = scale_of(combine<Lanes>(total * factor, turn, plus));
    factor *= scale;  // of a row's only piece, which is still there, as exponentials below this thread's maximum
    WINDOW_MATMUL_NO_UNROLL
    for (index_t piece = 0; piece < row.pieces(); ++piece) {
      if (row.pieces() > 1) {
        row.load(values, row.item.x, piece, kLowest);
        exponentials_of(values, offset);
        factor = scale;
      }
      row.store(piece, [&](int n, int e) { return values[n][e] * factor; });
    }
  }
};

template <class E, int Lanes>
struct SoftmaxBackward {  // x = g, y = p
  using Row = SoftmaxRow<E, Lanes, softmax_chunks(true, sizeof(E))>;
  using Sum = typename Row::Sum;

  const Row& row;
  std::uint32_t& turn;

  struct Both {  // as they lie in memory, numbers only where needed: those would take more registers than there are
    Bytes16 g[Row::kChunks], p[Row::kChunks];
  };
  WINDOW_MATMUL_DEVICE void load(Both& both, index_t piece) const {
    row.load(both.g, row.item.x, piece);
    row.load(both.p, row.item.y, piece);
  }
  WINDOW_MATMUL_DEVICE static Sum product_of(const Both& both, Sum sum) {
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < Row::kChunks; ++n) {
      WINDOW_MATMUL_UNROLL
      for (int e = 0; e < Row::kPerChunk; ++e) sum = fused_multiply_add(Row::element_of(both.g[n], e), Row::element_of(both.p[n], e), sum);
    }
    return sum;
  }
  WINDOW_MATMUL_DEVICE Sum mean_of(Sum mine) const {
    return combine<Lanes>(mine, turn, [](Sum a, Sum b) { return a + b; });
  }
  WINDOW_MATMUL_DEVICE void store(Both& both, index_t piece, Sum mean) const {
    WINDOW_MATMUL_UNROLL
    for (int n = 0; n < Row::kChunks; ++n) forget(both.g[n]), forget(both.p[n]);
    row.store(piece, [&](int n, int e) { return Row::element_of(both.p[n], e) * (Row::element_of(both.g[n], e) - mean); });
  }

  WINDOW_MATMUL_DEVICE void run() const {
    Both both;
    load(both, 0);
    store(both, 0, mean_of(product_of(both, 0)));
  }

  WINDOW_MATMUL_DEVICE void run_in_pieces() const {
    Both both;
    Sum sum = 0;
    WINDOW_MATMUL_NO_UNROLL
    for (index_t piece = 0; piece < row.pieces(); ++piece) {
      load(both, piece);
      sum = product_of(both, sum);
    }
    const Sum mean = mean_of(sum);
    WINDOW_MATMUL_NO_UNROLL
    for (index_t piece = 0; piece < row.pieces(); ++piece) {
      if (row.pieces() > 1) load(both, piece);
      store(both, piece, mean);
    }
  }
};

// Of: Softmax<E, Lanes> or SoftmaxBackward<E, Lanes>. All threads of a warp, of the block where they share a row, take part in each row,
// whether theirs exists or not.
template <class Of, class E, int Lanes>
WINDOW_MATMUL_DEVICE void softmax_rows_of(const Launch& launch) {
  std::uint32_t turn = 0;
  WINDOW_MATMUL_NO_UNROLL
  for (index_t index = block_index(); index < launch.items; index += grid_size()) {
    Item item = item_of(launch, index, sizeof(E));
    item.rows = Range{item.first, item.first + softmax_rows(Lanes)}.intersect({0, item.band.rows});
    WINDOW_MATMUL_NO_UNROLL
    for (index_t first = item.rows.begin; first < item.rows.end; first += kThreads / Lanes) {
      const typename Of::Row row{item, first + thread_index() / Lanes};
      const Of kernel{row, turn};
      if constexpr (Lanes == kThreads)
        kernel.run_in_pieces();
      else
        kernel.run();
    }
  }
}

}  // namespace window_matmul::cuda
