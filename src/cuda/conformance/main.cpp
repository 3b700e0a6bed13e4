// src/cuda/conformance/main.cpp: the program: each primitive on the GPU, in the emulation and by its definition; the three must agree.
//
//   window_matmul_cuda_conformance [--emulation-only] [--runs N] [--device N]
//
// Prints a line of JSON for each little kernel and one for all. Exit status: 0 all agree; 1 something does not, or nothing was run;
// 2 wrong usage; 3 no GPU.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/conformance/definitions.hpp"
#include "cuda/conformance/runner.hpp"

namespace window_matmul::cuda::conformance {
namespace {

struct Options {
  bool emulation_only = false;
  int runs = 16, device = 0;
};

struct Verdict {
  int runs = 0;
  std::size_t words = 0, different = 0;
  double most_ulps = 0;
  std::string note;  // the first thing that went wrong
};

const Runner* find(const std::vector<Runner>& runners, const std::string& name) {
  for (const Runner& runner : runners)
    if (runner.name == name) return &runner;
  return nullptr;
}

// Runs one kernel on one machine and puts its result beside what it must be.
std::vector<std::byte> run(const Runner& runner, const char* where, const std::vector<std::byte>& in, Verdict* verdict) {
  std::vector<std::byte> out(runner.grid.out_bytes, std::byte{0x5a});
  const std::string error = runner.run(in.data(), out.data(), static_cast<std::uint64_t>(verdict->runs));
  if (!error.empty() && verdict->note.empty()) verdict->note = std::string(where) + ": " + error;
  return out;
}

void put_beside(const Definition& definition, const std::vector<std::byte>& a, const std::vector<std::byte>& b, const std::string& who,
                Verdict* verdict) {
  const Difference found = compare(definition, a, b);
  verdict->words += found.words, verdict->different += found.different;
  verdict->most_ulps = found.most_ulps > verdict->most_ulps ? found.most_ulps : verdict->most_ulps;
  if (found.different > 0 && verdict->note.empty())
    verdict->note = who + " differ in run " + std::to_string(verdict->runs) + ", first in number " + std::to_string(found.first);
}

// gpu: nullptr for the emulation alone. The memory of std::vector is aligned to 16 bytes, as that of GPUs.
Verdict judge(const Definition& definition, const Runner& emulated, const Runner* gpu, int runs) {
  Verdict verdict;
  Random random(20240229);
  for (; verdict.runs < runs && verdict.note.empty(); ++verdict.runs) {
    std::vector<std::byte> in(emulated.grid.in_bytes), expected(emulated.grid.out_bytes);
    definition.fill(random, in.data(), in.size());
    definition.define(in.data(), expected.data());
    const std::vector<std::byte> out = run(emulated, "emulation", in, &verdict);
    put_beside(definition, out, expected, "emulation and definition", &verdict);
    if (gpu != nullptr) put_beside(definition, run(*gpu, "GPU", in, &verdict), out, "GPU and emulation", &verdict);
  }
  return verdict;
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text)
    if (c == '"' || c == '\\')
      result += std::string("\\") + c;
    else
      result += c < ' ' ? ' ' : c;
  return result + "\"";
}

// One definition: prints its line. Returns 1 if it holds, 0 if this GPU has no such instruction, -1 if it is violated.
int report(const Definition& definition, const std::vector<Runner>& emulated, const std::vector<Runner>& gpu, const Options& options) {
  const Runner *here = find(emulated, definition.name), *there = find(gpu, definition.name);
  const bool missing = here == nullptr || (there == nullptr && !options.emulation_only);
  const bool unavailable = there != nullptr && !there->available;
  Verdict verdict;
  if (!missing && !unavailable) verdict = judge(definition, *here, there, options.runs);
  if (missing) verdict.note = "it has no kernel";
  if (unavailable) verdict.note = "this GPU, or the code built for it, has no such instruction";
  const bool passed = !missing && !unavailable && verdict.runs > 0 && verdict.words > 0 && verdict.note.empty();
  std::printf("{\"check\": %s, \"runs\": %d, \"numbers\": %zu, \"different\": %zu, \"ulps\": %.0f, \"allowed_ulps\": %d, ",
              quoted(definition.name).c_str(), verdict.runs, verdict.words, verdict.different,
              verdict.most_ulps > 1e9 ? 1e9 : verdict.most_ulps, definition.ulps);
  std::printf("\"verdict\": \"%s\", \"note\": %s}\n", passed ? "passed" : unavailable ? "not run" : "failed", quoted(verdict.note).c_str());
  return passed ? 1 : unavailable ? 0 : -1;
}

bool parse(int count, char** arguments, Options* options) {
  for (int i = 1; i < count; ++i) {
    int* number = std::strcmp(arguments[i], "--runs") == 0     ? &options->runs
                  : std::strcmp(arguments[i], "--device") == 0 ? &options->device
                                                               : nullptr;
    if (std::strcmp(arguments[i], "--emulation-only") == 0)
      options->emulation_only = true;
    else if (number != nullptr && i + 1 < count)
      *number = std::atoi(arguments[++i]);
    else
      return false;
  }
  return true;
}

int main_of(const Options& options) {
  std::string name = "emulation only", why_not;
  std::vector<Runner> gpu;
  if (!options.emulation_only) gpu = gpu_runners(options.device, &name, &why_not);
  if (!why_not.empty()) {
    std::fprintf(stderr, "no GPU to run on: %s\n", why_not.c_str());
    return 3;
  }
  const std::vector<Runner> emulated = emulated_runners();
  int passed = 0, failed = 0;
  for (const Definition& definition : definitions()) {
    const int verdict = report(definition, emulated, gpu, options);
    passed += verdict > 0, failed += verdict < 0;
  }
  for (const Runner& runner : emulated) {
    bool defined = false;
    for (const Definition& definition : definitions()) defined |= definition.name == runner.name;
    if (defined) continue;
    ++failed;
    std::printf("{\"check\": %s, \"verdict\": \"failed\", \"note\": \"it has no definition\"}\n", quoted(runner.name).c_str());
  }
  std::printf("{\"device\": %s, \"passed\": %d, \"failed\": %d}\n", quoted(name).c_str(), passed, failed);
  return passed > 0 && failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace window_matmul::cuda::conformance

int main(int count, char** arguments) {
  window_matmul::cuda::conformance::Options options;
  if (!parse(count, arguments, &options)) {
    std::fprintf(stderr, "usage: %s [--emulation-only] [--runs N] [--device N]\n", arguments[0]);
    return 2;
  }
  return main_of(options);
}
