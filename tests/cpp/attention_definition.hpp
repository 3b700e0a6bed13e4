// tests/cpp/attention_definition.hpp: fused attention, written from its contract alone, for real numbers and for complex ones, whose
// imaginary parts carry derivatives.
#pragma once

#include <array>
#include <complex>
#include <vector>

#include "attention_case.hpp"

namespace window_matmul::testing_tools {

using Complex = std::complex<double>;
inline double real_of(double x) { return x; }
inline double real_of(const Complex& x) { return x.real(); }

// Row-major tensors of a case.
template <class T>
struct AttentionValues {
  std::vector<T> q, k, v, bias, sinks;
  std::vector<bool> key_mask, global_mask;
  std::vector<double> d_out, d_lse;
  std::uint64_t dropout_seed = 0;
};

// Philox4x32-10 as its authors describe it: word `which` of the block that `counter` names.
using PhiloxCounter = std::array<std::uint32_t, 4>;
std::uint32_t philox_word(std::uint64_t seed, PhiloxCounter counter, std::size_t which);

template <class T>
struct SeenByRow {
  index_t key, slot;  // slot -1: a global pair outside the window
  T capped, score;    // before and after the bias
  T p;                // of the softmax with the sink
  double kept;        // 0 or 1 / (1 - dropout_p)
};

template <class T>
struct AttentionRow {
  std::vector<SeenByRow<T>> keys;
  T lse{}, p_of_sink{};
  std::vector<T> out;
};

// Row i of head h of sequence s, by their numbers within the sequence.
template <class T>
class AttentionDefinition {
 public:
  AttentionDefinition(const AttentionCase& c, const AttentionValues<T>& x) : c_(c), x_(x), pieces_(c.pieces()) {}

  const std::vector<Piece>& pieces() const { return pieces_; }

  // Places of elements in the row-major tensors.
  index_t q_at(index_t s, index_t h, index_t i) const { return (row_at(s, h, i)) * c_.dim; }
  index_t out_at(index_t s, index_t h, index_t i) const { return (row_at(s, h, i)) * c_.value_dim; }
  index_t row_at(index_t s, index_t h, index_t i) const {
    const Piece& piece = pieces_[static_cast<std::size_t>(s)];
    return (piece.batch * c_.heads + h) * c_.queries + piece.first_query + i;
  }
  index_t key_at(index_t s, index_t h, index_t j) const {  // times D or Dv: the place in k or v
    const Piece& piece = pieces_[static_cast<std::size_t>(s)];
    return (piece.batch * c_.kv_heads + h / c_.group()) * c_.keys + piece.first_key + j;
  }
  index_t bias_at(index_t s, index_t h, index_t i, index_t slot) const {
    return (c_.bias_rank == 2 ? h : row_at(s, h, i)) * c_.width() + slot;
  }

  // The keys that row i sees, with their slots.
  std::vector<SeenByRow<T>> sight(index_t s, index_t h, index_t i) const;
  AttentionRow<T> row(index_t s, index_t h, index_t i) const { return row(s, h, i, sight(s, h, i)); }
  AttentionRow<T> row(index_t s, index_t h, index_t i, std::vector<SeenByRow<T>> seen) const;

  // What the gradients are those of: the sum of out d_out and lse d_lse; here of one row, which sees these keys.
  T loss(index_t s, index_t h, index_t i, const std::vector<SeenByRow<T>>& seen) const;
  T loss_of_head(index_t s, index_t h, const std::vector<std::vector<SeenByRow<T>>>& sights) const;

 private:
  template <class List>
  static auto at(const List& list, index_t i) {
    return list[static_cast<std::size_t>(i)];
  }
  std::size_t mask_at(const Piece& piece, index_t j) const { return static_cast<std::size_t>(piece.batch * c_.keys + piece.first_key + j); }

  bool is_global(const Piece& piece, index_t j) const;
  std::vector<index_t> slots_of(const Piece& piece, index_t h, index_t i) const;  // of each key: -1 where it is in none
  double kept(index_t s, index_t h, index_t i, index_t j) const;

  const AttentionCase& c_;
  const AttentionValues<T>& x_;
  std::vector<Piece> pieces_;
};

struct AttentionResults {  // row-major, whichever of them were asked for
  std::vector<double> out, lse, d_q, d_k, d_v, d_bias, d_sinks;
};

std::size_t rows_of_all(const AttentionCase& c);
AttentionResults zeros_of(const AttentionCase& c);

// Calls f(s, h, i) for every row of every head of every sequence.
template <class F>
void for_each_row(const AttentionCase& c, F f) {
  const std::vector<Piece> pieces = c.pieces();
  for (std::size_t s = 0; s < pieces.size(); ++s)
    for (index_t h = 0; h < c.heads; ++h)
      for (index_t i = 0; i < pieces[s].queries; ++i) f(static_cast<index_t>(s), h, i);
}

AttentionResults forward_of(const AttentionCase& c, const AttentionValues<double>& x);
// Gradients by the complex step: f'(x) = Im f(x + ih) / h, exact for an h so small that its square is lost.
void add_gradients(const AttentionCase& c, const AttentionValues<double>& x, AttentionResults& r);

}  // namespace window_matmul::testing_tools
