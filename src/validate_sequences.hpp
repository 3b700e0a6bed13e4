// src/validate_sequences.hpp: checks of what differs from sequence to sequence of fused attention: bounds, lengths, offsets.
#pragma once

#include "checks.hpp"
#include "window_matmul/attention.hpp"

namespace window_matmul::checks {

struct Sizes {  // the letters
  index_t b, h, lq, d, hkv, lk, dv;
};

inline std::string wrong_offsets(const char* name, const std::vector<index_t>& cu, const char* total_name, index_t total) {
  const std::string what = std::string(name) + " ";
  if (cu.front() < 0) return what + "begins with " + text(cu.front()) + "; it needs to begin with at least 0";
  for (std::size_t s = 1; s < cu.size(); ++s)
    if (cu[s] < cu[s - 1]) return what + "has " + text(cu[s]) + " after " + text(cu[s - 1]) + "; it needs to be non-decreasing";
  if (cu.back() > total) return what + "ends with " + text(cu.back()) + "; it needs to end with at most " + total_name + ", " + text(total);
  return "";
}

inline std::string wrong_packing(const AttentionInputs& in, const Sizes& n) {
  if (in.cu_q.empty() && in.cu_k.empty()) return "";
  if (in.cu_q.size() != in.cu_k.size())
    return "cu_q has " + text(static_cast<index_t>(in.cu_q.size())) + " values and cu_k has " + text(static_cast<index_t>(in.cu_k.size())) +
           "; they need as many as each other, one more than there are sequences";
  if (n.b != 1) return "q " + shape_text(in.q) + ": dim 0 needs to be 1 where sequences are packed (cu_q)";
  if (in.window.query_offset)
    return "query_offset is " + text(*in.window.query_offset) + "; it needs to be left out where sequences are packed (cu_q)";
  const std::string e = wrong_offsets("cu_q", in.cu_q, "the rows of q", n.lq);
  return e.empty() ? wrong_offsets("cu_k", in.cu_k, "the rows of k", n.lk) : e;
}

// A number for each entry of the batch.
inline std::string wrong_entries(const char* name, const std::vector<index_t>& of, const Sizes& n, Range allowed, const std::string& need) {
  if (of.empty()) return "";
  if (static_cast<index_t>(of.size()) != n.b)
    return std::string(name) + " has " + text(static_cast<index_t>(of.size())) + " values; it needs one for each of the " + text(n.b) +
           " entries of the batch";
  for (std::size_t b = 0; b < of.size(); ++b)
    if (!allowed.contains(of[b]))
      return std::string(name) + "[" + text(static_cast<index_t>(b)) + "] is " + text(of[b]) + "; it needs to be " + need;
  return "";
}

inline std::string wrong_lengths_and_offsets(const AttentionInputs& in, const Sizes& n) {
  if (in.key_lengths.empty() && in.query_offsets.empty()) return "";
  const char* first = in.key_lengths.empty() ? "query_offset" : "key_lengths";
  if (!in.cu_q.empty()) return std::string(first) + " is given for each entry; it needs to be left out where sequences are packed (cu_q)";
  if (!in.query_offsets.empty() && in.window.query_offset)
    return "query_offset is " + text(*in.window.query_offset) + " for all entries; it needs to be left out beside one for each";
  const std::string e = wrong_entries("key_lengths", in.key_lengths, n, {0, n.lk + 1}, "from 0 to Lk, " + text(n.lk));
  if (!e.empty()) return e;
  return wrong_entries("query_offset", in.query_offsets, n, {-kUnbounded, kUnbounded + 1}, "from -2^60 to 2^60");
}

// Of the numbers that a GPU alone knows, what can be said without them.
inline std::string wrong_numbers_there(const AttentionInputs& in, const Sizes& n) {
  const AttentionNumbers& there = in.there;
  const auto wrong_count = [&](const char* name, const NumbersView& of) {
    if (of.data == nullptr || of.count == n.b) return std::string();
    return std::string(name) + " has " + text(of.count) + " values; it needs one for each of the " + text(n.b) + " entries of the batch";
  };
  if (!there.any_of_sequences()) return "";
  if ((there.cu_q.data == nullptr) != (there.cu_k.data == nullptr) || there.cu_q.count != there.cu_k.count)
    return "cu_q and cu_k need to be given together, with as many values";
  if (there.cu_q.data != nullptr) {
    if (there.cu_q.count < 1) return "cu_q has no values; it needs one more than there are sequences";
    if (n.b != 1) return "q " + shape_text(in.q) + ": dim 0 needs to be 1 where sequences are packed (cu_q)";
    if (there.key_lengths.data != nullptr || there.query_offsets.data != nullptr || in.window.query_offset)
      return "key_lengths and query_offset need to be left out where sequences are packed (cu_q)";
  }
  if (there.query_offsets.data != nullptr && in.window.query_offset)
    return "query_offset is " + text(*in.window.query_offset) + " for all entries; it needs to be left out beside one for each";
  const std::string e = wrong_count("key_lengths", there.key_lengths);
  return e.empty() ? wrong_count("query_offset", there.query_offsets) : e;
}

}  // namespace window_matmul::checks
