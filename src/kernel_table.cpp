// src/kernel_table.cpp: every kernel there is, and the choice among them.
#include <algorithm>
#include <cstring>
#include <functional>

#include "cpu/cpu.hpp"
#include "cuda/cuda.hpp"
#include "reference/reference.hpp"
#include "window_matmul/backends.hpp"

namespace window_matmul {

const std::vector<Kernel>& kernel_table() {
  static const std::vector<Kernel> table = [] {
    std::vector<Kernel> rows = cpu::rows();
    rows.push_back(cuda::row());
    rows.push_back({"reference", 0, reference::supports, reference::configure, reference::run, nullptr});
    std::ranges::sort(rows, std::greater{}, &Kernel::priority);  // no two have the same
    return rows;
  }();
  return table;
}

std::vector<Verdict> verdicts(const Problem& problem, const DeviceInfo& device) {
  std::vector<Verdict> all;
  for (const Kernel& row : kernel_table()) {
    Verdict verdict{row.name, ""};
    if (!row.supports(problem, device, &verdict.why_not) && verdict.why_not.empty()) verdict.why_not = "refused";
    all.push_back(std::move(verdict));
  }
  return all;
}

namespace {

std::string list_of_rows(const Problem& problem, const DeviceInfo& device) {
  std::string text;
  for (const Verdict& v : verdicts(problem, device)) text += "\n  " + v.name + ": " + (v.why_not.empty() ? "usable" : v.why_not);
  return text;
}

}  // namespace

Status select(const Problem& problem, const DeviceInfo& device, const char* forced, const Kernel** kernel) {
  *kernel = nullptr;
  const bool any = forced == nullptr || *forced == '\0';
  bool known = any;
  for (const Kernel& row : kernel_table()) {
    if (!any && std::strcmp(row.name, forced) != 0) continue;
    known = true;
    std::string why_not;
    if (!row.supports(problem, device, &why_not) || (any && row.is_slower != nullptr && row.is_slower(device))) continue;
    *kernel = &row;
    return {};
  }
  if (!known)
    return invalid_argument("backend (WINDOW_MATMUL_BACKEND) is '" + std::string(forced) +
                            "'; it needs to be unset or a row of the kernel table:" + list_of_rows(problem, device));
  const std::string asked = any ? "no kernel" : "the backend '" + std::string(forced) + "' (WINDOW_MATMUL_BACKEND) does not";
  return {StatusCode::unsupported, asked + (any ? " takes " : " take ") + to_string(problem) + ":" + list_of_rows(problem, device)};
}

}  // namespace window_matmul
