// src/cuda/kernels/attention/backward_keys.cuh: d_k and d_v of a block of keys; tiles of queries are walked, head by head of those that
// share the keys.
//
//   d_k = scale sum over queries of d_S q      d_v = sum over queries of the weights, share P, times d_out
//
// Where the registers do not hold both sums, each has a launch of its own, and P is computed once more.
#pragma once

#include "cuda/kernels/attention/backward_block.cuh"

namespace window_matmul::cuda {

enum class Gradients { both, of_keys, of_values };

template <class E, int Dim, bool Options, Gradients Which>
struct BackwardKeys : BackwardBlock<E, Dim, true, Options> {
  using Block = BackwardBlock<E, Dim, true, Options>;
  using Block::launch, Block::item, Block::first_row, Block::walk;
  using typename Block::Shape, typename Block::Product, typename Block::Sum, typename Block::Scores, typename Block::Sums,
      typename Block::FrameOf, typename Block::Facts;
  static constexpr bool kOfKeys = Which != Gradients::of_values, kOfValues = Which != Gradients::of_keys;

  struct State {
    Sums d_k, d_v;  // what is not asked for is never touched
    bool exactly = false;
    int panel = 0;
    static_assert(!(kOfKeys && kOfValues) || Block::kPanel == Dim);
  };

  // Tiles fastest, then the heads.
  WINDOW_MATMUL_DEVICE BackwardStep first() const { return {walk.first(), item.head * launch.group}; }
  WINDOW_MATMUL_DEVICE BackwardStep after(const BackwardStep& step) const {
    const BackwardStep next{walk.after(step.tile), step.head};
    return walk.is_end(next.tile) && step.head + 1 < (item.head + 1) * launch.group ? BackwardStep{walk.first(), step.head + 1} : next;
  }
  WINDOW_MATMUL_DEVICE bool is_end(const BackwardStep& step) const { return walk.is_end(step.tile); }

  WINDOW_MATMUL_DEVICE void load(const BackwardStep& step, std::uint32_t stage) const {
    Block::load_columns(launch.q, launch.d_out, step.head, step.tile, stage);
    load_facts(Shape::facts_of(stage), step);
  }
  // 16 bytes a thread.
  WINDOW_MATMUL_DEVICE void load_facts(std::uint32_t to, const BackwardStep& step) const {
    constexpr int kPieces = sizeof(Facts) / 16;
    const Operand from = Options && step.tile.beyond ? column_positions_of(launch.facts, item, step.head, sizeof(Sum))
                                                     : columns_of_item(launch.facts, item, step.head, sizeof(Sum));
    const int column = thread_index() / kPieces, piece = thread_index() % kPieces;
    if (column >= Shape::kColumns) return;
    const std::uint32_t place = to + static_cast<std::uint32_t>(thread_index()) * 16;
    if (Block::is_loaded(step.tile, column))
      copy_async<16>(place, address_of(from, step.tile.first + column, 0, sizeof(Sum)) + static_cast<std::uintptr_t>(piece) * 16, 16);
    else
      store_shared(place, Bytes16{});
  }

  WINDOW_MATMUL_DEVICE void run() {
    walk.template start<Options>();
    Block::load_rows(launch.k, launch.v, item.head, kOfKeys ? 2 : 1);
    commit_copies();
    State state;
    const index_t width = kOfKeys ? launch.dim : launch.value_dim;
    WINDOW_MATMUL_NO_UNROLL
    for (state.panel = 0; state.panel == 0 || state.panel * Block::kPanel < width; ++state.panel) {
      state.exactly = false;
      add_panel(state);
      if constexpr (kOfKeys) Block::store(state.d_k, launch.scale, launch.d_k, item.head, launch.dim, state.panel);
      if constexpr (kOfValues) Block::store(state.d_v, 1, launch.d_v, item.head, launch.value_dim, state.panel);
    }
  }
  WINDOW_MATMUL_DEVICE void add_panel(State& state) const {
    WINDOW_MATMUL_NO_UNROLL
    while (true) {
      if constexpr (kOfKeys) clear(state.d_k);
      if constexpr (kOfValues) clear(state.d_v);
      for_each_step(*this, state);
      if (state.exactly || !Block::any_in_block(!all_finite(state))) return;
      state.exactly = true;
    }
  }
  WINDOW_MATMUL_DEVICE static bool all_finite(const State& state) {
    bool finite = true;
    if constexpr (kOfKeys) finite = are_finite(state.d_k);
    if constexpr (kOfValues) finite = are_finite(state.d_v) && finite;
    return finite;
  }

  WINDOW_MATMUL_DEVICE void use(const BackwardStep& step, std::uint32_t stage, State& state) const {
    const FrameOf frame{item, step.tile, first_row};
    const Groups groups = frame.groups(Shape::kColumns);
    if (groups.empty()) return;
    const int dim = static_cast<int>(launch.dim), value_dim = static_cast<int>(launch.value_dim);
    const std::uint32_t q = Shape::first_of(stage), d_out = Shape::second_of(stage), facts = Shape::facts_of(stage);
    Scores s, d_s;
    Product::multiply(s, Shape::kFirst, first_row, q, dim, groups);
    if constexpr (kOfKeys)
      Product::multiply(d_s, Shape::kSecond, first_row, d_out, value_dim, groups);
    else
      clear(d_s);
    Block::finish_scores(s, frame, step.head);
    if constexpr (kOfKeys) Block::drop(d_s, frame, step.head);
    Block::differentiate(s, d_s, [&](int n) {
      return load_words<Facts>(facts + static_cast<std::uint32_t>(column_of_score(n)) * static_cast<std::uint32_t>(sizeof(Facts)));
    });
    if constexpr (kOfValues) {
      Block::drop(s, frame, step.head);
      Block::accumulate(state.d_v, s, d_out, launch.value_dim, state.panel, groups, state.exactly);
    }
    if constexpr (kOfKeys) {
      Block::multiply_with_slopes(d_s, s, stage, groups);
      Block::accumulate(state.d_k, d_s, q, launch.dim, state.panel, groups, state.exactly);
    }
  }
};

template <class E, int Dim, bool Options, Gradients Which>
struct BackwardKeysKernel : BackwardItems<BackwardKeys<E, Dim, Options, Which>, true> {};

}  // namespace window_matmul::cuda
