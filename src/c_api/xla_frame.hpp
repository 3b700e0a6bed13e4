// src/c_api/xla_frame.hpp: a call by XLA, by the names of its arguments, results and attributes.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "convert.hpp"
#include "xla_abi.hpp"

namespace window_matmul::c_api::xla {

// The attributes "operands" and "results" are the names of the buffers, with blanks between them. What does not fit is refused.
class Frame {
 public:
  explicit Frame(const CallFrame& frame);
  Frame(const Frame&) = delete;

  // Null where there is none of that name.
  const wm_tensor* operator()(std::string_view name) const;

  double real(std::string_view name) const;
  const double* real_if_given(std::string_view name) const;
  std::int64_t integer(std::string_view name) const;
  std::span<const std::int64_t> integers(std::string_view name) const;
  std::string_view text(std::string_view name) const;

  // One call for all that vmap makes of it: the first dims of all tensors, so many, are its. A tensor that it does not map has 1 there.
  index_t num_entries(int vmapped_dims);
  void turn_to(index_t entry);  // then the tensors are those of that entry

 private:
  struct Operand {
    std::string_view name;
    wm_tensor whole, entry;
  };

  const void* attribute(std::string_view name, int kind) const;
  void add(const Buffers& buffers, std::string_view names);

  const Attributes& attributes_;
  std::vector<Operand> operands_;
  std::vector<index_t> sizes_;  // of vmap's dims
};

}  // namespace window_matmul::c_api::xla
