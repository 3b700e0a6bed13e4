// src/cpu/attention/plan.hpp: from tensors to the plain operands of a sequence, a head and a dilation part.
#pragma once

#include <vector>

#include "cpu/attention/block.hpp"
#include "task.hpp"

namespace window_matmul::cpu {

struct GlobalTokens {  // of one sequence
  Tokens tokens;
  std::vector<index_t> keys;  // their positions, ascending
  bool queries = false;  // they see every key
};

class AttentionPlan {
 public:
  AttentionPlan(const Problem& problem, const AttentionArgs& args);

  const Problem& problem() const { return problem_; }
  const AttentionArgs& args() const { return args_; }
  index_t sequences() const { return static_cast<index_t>(sequences_.size()); }
  const Sequence& sequence(index_t s) const { return sequences_[static_cast<std::size_t>(s)]; }
  const GlobalTokens& globals(index_t s) const { return globals_.empty() ? none_ : globals_[static_cast<std::size_t>(s)]; }
  bool has_globals() const { return !globals_.empty(); }
  index_t group() const { return problem_.heads / problem_.attention.kv_heads; }  // query heads of a key/value head
  bool is_alike(index_t kv_head) const;                                           // whether these have one dilation

  // A block without rows, heads, walk and scratch: what all items of a key/value head share.
  AttentionBlock block_of(index_t s, index_t kv_head, index_t dilation) const;
  // Scratch begins with held_bytes() for the rows that are held: none until it is said what else there is.
  void hold_rows(std::size_t bytes_besides);
  std::size_t held_bytes() const;
  void give_scratch(void* scratch, AttentionBlock* block) const;
  AttentionHead head_of(index_t s, index_t head) const;
  // Rows of a (B, H, L, n) tensor, or of a (B, H, L) one, that belong to a sequence; without an address where there is no data.
  Operand rows_of(const TensorView& tensor, index_t batch, index_t head, index_t first) const;

 private:
  AttentionOptionsOfBlock options_of(index_t s) const;
  void set_scale(AttentionOptionsOfBlock* of) const;
  Tokens tokens_of(const MaskView& mask, index_t s) const;
  index_t held_bytes_of(index_t columns) const;

  const Problem& problem_;
  const AttentionArgs& args_;
  std::vector<Sequence> sequences_;
  std::vector<GlobalTokens> globals_;  // empty where there are none
  GlobalTokens none_;
  index_t held_keys_ = 0;
};

// The walk of a dilation part, and that of global queries.
AttentionGeometry walk_of_part(const Band& band, index_t dilation, index_t part);
AttentionGeometry walk_of_globals(const Band& band, const std::vector<index_t>& queries);

}  // namespace window_matmul::cpu
