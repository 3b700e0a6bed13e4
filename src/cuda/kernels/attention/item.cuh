// src/cuda/kernels/attention/item.cuh: from the number of an item to rows of one dilation part of one sequence, on the device.
//
// Items are numbered with the blocks of rows fastest, then heads, then dilation parts, then sequences: neighbours share keys in the L2
// cache. How many rows a packed sequence has is known on the device alone. Sequence s, whose rows begin at cu[s], has the blocks from
// floor(cu[s] / span) + s on, span = rows of a block * dilation: at least as many as it needs, whatever the others have. Rows in front of
// the first sequence and behind the last make two more, which see nothing.
#pragma once

#include "cuda/kernels/attention/launch.hpp"
#include "cuda/primitives/primitives.hpp"

namespace window_matmul::cuda {

// Numbers of the caller, on the device: cut to [low, high].
WINDOW_MATMUL_DEVICE index_t number_at(const Numbers& of, index_t i, index_t low, index_t high) {
  const std::uintptr_t place = of.address + std::uintptr_t(times(i, of.stride)) * (of.wide ? 8 : 4);
  const index_t value = of.wide ? load_global<std::int64_t>(place) : index_t{load_global<std::int32_t>(place)};
  return clamp(value, low, high);
}

// Sides no longer than anything can see: then nothing computed from them wraps (without_overhang of problem.hpp).
WINDOW_MATMUL_INLINE Band cut(const Band& band) {
  Band same = band;
  same.left = smaller(band.left, larger(band.rows + band.shift, 1));
  same.right = band.right == 0 ? 0 : smaller(band.right, larger(band.cols - band.shift, 1));
  return same;
}

// Positions are places in a sequence. Row r of the walk is at row_position(r), column c at column_position(c).
struct AttentionItem {
  index_t sequence = 0, batch = 0, head = 0;  // ByKeys: a key/value head
  Range rows_there, columns_there;  // of the sequence, in the tensors
  Band band;                        // of the sequence, in positions: queries x keys, its left and right counted in steps of the dilation
  Band part;                        // rows x columns of the dilation part
  index_t first_row = 0, first_column = 0, step = 1;
  Range rows;                       // of this item; empty: nothing to do
  index_t first = 0;                // of them
  index_t split = 0;

  // The band of these rows in 32 bits, from column `base` on, the first that they see: row first + r, r < seen_rows, sees the columns
  // [max(low + r, 0), min(high + r, end)).
  index_t base = 0;
  int seen_rows = 0, low = 0, high = 0, end = 0;

  WINDOW_MATMUL_DEVICE void set_band() {
    constexpr index_t kFew = 1024, kMany = index_t{1} << 30;  // beyond the rows of a block; more columns than a sequence has
    base = clamp(part.first(first), 0, part.cols);
    seen_rows = static_cast<int>(clamp(smaller(rows.end, part.rows) - first, 0, kFew));
    low = static_cast<int>(clamp(part.first(first) - base, -kFew, kMany));
    high = static_cast<int>(clamp(part.last(first) + 1 - base, -kFew, kMany));
    end = static_cast<int>(part.cols - base);
  }

  WINDOW_MATMUL_DEVICE index_t row_position(index_t r) const { return first_row + times(r, step); }
  WINDOW_MATMUL_DEVICE index_t column_position(index_t c) const { return first_column + times(c, step); }
  // The queries of global tokens see every key.
  WINDOW_MATMUL_DEVICE bool has_global_queries() const { return band.right > 0 && band.rows == band.cols && band.shift == 0; }
};

// Row r of the walk, and column c of it, of the head of an item. Global tokens are walked in positions: every row and column there is.
WINDOW_MATMUL_DEVICE Operand rows_of_item(const Strided& m, const AttentionItem& item, index_t head, std::uintptr_t element) {
  const Operand all{m.address + std::uintptr_t(times(item.batch, m.batch) + times(head, m.head)) * element, m.row, m.column};
  return strided_rows(all, item.rows_there.begin + item.first_row, item.step, element);
}
WINDOW_MATMUL_DEVICE Operand columns_of_item(const Strided& m, const AttentionItem& item, index_t head, std::uintptr_t element) {
  const Operand all{m.address + std::uintptr_t(times(item.batch, m.batch) + times(head, m.head)) * element, m.row, m.column};
  return strided_rows(all, item.columns_there.begin + item.first_column, item.step, element);
}
WINDOW_MATMUL_DEVICE Operand column_positions_of(const Strided& m, const AttentionItem& item, index_t head, std::uintptr_t element) {
  const Operand all{m.address + std::uintptr_t(times(item.batch, m.batch) + times(head, m.head)) * element, m.row, m.column};
  return strided_rows(all, item.columns_there.begin, 1, element);
}

// Bound s of the sequences with the two around them: [bound(s), bound(s + 1)) are the rows of number s, 0 <= s < sequences + 2.
WINDOW_MATMUL_DEVICE index_t bound_of(const Numbers& cu, index_t s, index_t sequences, index_t total) {
  if (s == 0) return 0;
  return s > sequences + 1 ? total : number_at(cu, s - 1, 0, total);
}

// Which sequence holds block `block`, and which of its blocks that is.
WINDOW_MATMUL_DEVICE index_t find_sequence(const AttentionLaunch& launch, index_t total, index_t span, index_t* block) {
  index_t low = 0, high = launch.sequences + 1;  // the last whose first block is at most this one
  WINDOW_MATMUL_NO_UNROLL
  while (low < high) {
    const index_t middle = (low + high + 1) / 2;
    if (bound_of(launch.cu_rows, middle, launch.sequences, total) / span + middle <= *block)
      low = middle;
    else
      high = middle - 1;
  }
  *block -= bound_of(launch.cu_rows, low, launch.sequences, total) / span + low;
  return low;
}

// Fills in the sequence: its rows and columns in the tensors, and the band over them.
template <bool ByKeys>
WINDOW_MATMUL_DEVICE void set_sequence(const AttentionLaunch& launch, index_t number, AttentionItem* item) {
  const index_t total_rows = ByKeys ? launch.band.cols : launch.band.rows, total_columns = ByKeys ? launch.band.rows : launch.band.cols;
  Band band = launch.band;
  if (launch.packed) {
    item->sequence = number - 1, item->batch = 0;
    const index_t begin = bound_of(launch.cu_rows, number, launch.sequences, total_rows);
    item->rows_there = {begin, larger(begin, bound_of(launch.cu_rows, number + 1, launch.sequences, total_rows))};
    item->columns_there = {};
    if (number > 0 && number <= launch.sequences) {
      const index_t first = number_at(launch.cu_columns, number - 1, 0, total_columns);
      item->columns_there = {first, larger(first, number_at(launch.cu_columns, number, 0, total_columns))};
    }
    band.rows = ByKeys ? item->columns_there.size() : item->rows_there.size();
    band.cols = ByKeys ? item->rows_there.size() : item->columns_there.size();
    band.shift = band.cols - band.rows;
  } else {
    item->sequence = item->batch = number;
    if (launch.key_lengths.address != 0) band.cols = number_at(launch.key_lengths, number, 0, launch.band.cols);
    if (launch.shifts.address != 0)
      band.shift = number_at(launch.shifts, number, -kUnbounded, kUnbounded);
    else if (launch.key_lengths.address != 0 && launch.aligns_last)
      band.shift = band.cols - band.rows;
    item->rows_there = {0, total_rows}, item->columns_there = {0, ByKeys ? band.rows : band.cols};
  }
  item->band = launch.keeps_sides ? band : cut(band);
}

// Something in shared memory, in words of 16 bytes.
template <class T>
WINDOW_MATMUL_DEVICE void store_words(std::uint32_t to, const T& value) {
  static_assert(sizeof(T) % 16 == 0);
  Bytes16 words[sizeof(T) / 16];
  __builtin_memcpy(words, &value, sizeof value);
  WINDOW_MATMUL_UNROLL
  for (std::uint32_t i = 0; i < sizeof(T) / 16; ++i) store_shared(to + 16 * i, words[i]);
}
template <class T>
WINDOW_MATMUL_DEVICE T load_words(std::uint32_t from) {
  Bytes16 words[sizeof(T) / 16];
  WINDOW_MATMUL_UNROLL
  for (std::uint32_t i = 0; i < sizeof(T) / 16; ++i) words[i] = load_shared<Bytes16>(from + 16 * i);
  T value;
  __builtin_memcpy(&value, words, sizeof value);
  return value;
}

// Item `index`. ByKeys: rows are keys; those behind the length of an entry see nothing.
template <bool ByKeys>
WINDOW_MATMUL_DEVICE AttentionItem attention_item(const AttentionLaunch& launch, index_t index, index_t block_rows) {
  const index_t total = ByKeys ? launch.band.cols : launch.band.rows;
  const index_t blocks = blocks_of_head(launch, total, block_rows);
  const index_t heads = ByKeys ? launch.heads / launch.group : launch.heads;
  AttentionItem item;
  index_t block = index % blocks, rest = index / blocks;
  item.split = rest % launch.splits, rest /= launch.splits;
  item.head = (ByKeys ? launch.first_head / launch.group : launch.first_head) + rest % heads, rest /= heads;
  const index_t parts = smaller(launch.dilation, total), part = rest % parts;
  index_t number = rest / parts;
  if (launch.packed) number = find_sequence(launch, total, block_rows * launch.dilation, &block);
  set_sequence<ByKeys>(launch, number, &item);
  // Rows that exist: of keys also those behind the length of their entry.
  Band walked = ByKeys ? item.band.transposed() : item.band;
  const DilatedPart p = dilated_part(walked, launch.dilation, part);
  const index_t rows = ceil_div(larger(item.rows_there.size() - part, 0), launch.dilation);
  item.part = p.band, item.first_row = p.first_row, item.first_column = p.first_col, item.step = launch.dilation;
  item.first = block * block_rows;
  item.rows = Range{item.first, item.first + block_rows}.intersect({0, rows});
  item.set_band();
  return item;
}

}  // namespace window_matmul::cuda
