// src/cpu/cpu.cpp: the CPU rows of the kernel table: a problem cut into blocks of rows that any thread may take.
#include "cpu/cpu.hpp"

#include <vector>

#include "cpu/attention/attention.hpp"
#include "cpu/block.hpp"
#include "cpu/scratch.hpp"
#include "task.hpp"

#ifndef WINDOW_MATMUL_HAS_AVX2
#define WINDOW_MATMUL_HAS_AVX2 0
#endif
#ifndef WINDOW_MATMUL_HAS_AVX512
#define WINDOW_MATMUL_HAS_AVX512 0
#endif
#ifndef WINDOW_MATMUL_HAS_AVX512BF16
#define WINDOW_MATMUL_HAS_AVX512BF16 0
#endif
#ifndef WINDOW_MATMUL_HAS_AMX
#define WINDOW_MATMUL_HAS_AMX 0
#endif
#ifndef WINDOW_MATMUL_EMULATE_AVX512
#define WINDOW_MATMUL_EMULATE_AVX512 0
#endif

namespace window_matmul::cpu {
namespace {

// ---- HOW ----------------------------------------------------------------------------------------------------------------------------

// Rows of a work item. A multiple of every ISA's tile rows; enough to share the packed keys of a block, few enough to spread over threads.
constexpr index_t kBlockRows = 192;

// Of a softmax's row, for the size of its scratch: there is no memory for wider ones.
constexpr index_t kMaxWidth = index_t{1} << 50;

Config configure(const Problem& problem, const DeviceInfo& device) {
  if (is_attention(problem.op)) return configure_attention(problem);
  // A row tile reads all that is packed for block_keys keys. Half the second level.
  const index_t columns = smaller(problem.dim, problem.op == Op::band_out ? kPackedDepth : kPackedColumns);
  const index_t fits = static_cast<index_t>(device.l2_bytes) / 2 / (larger(columns, 1) * element_bytes(problem.dtype));
  return {kBlockRows, clamp(fits / 64 * 64, 64, 1024)};
}

Config configure_pairs(const Problem& problem, const DeviceInfo&) { return configure_attention_in_pairs(problem); }

// Bytes of scratch of one block: what kernels/*.inl.hpp lay out, for the widest vectors.
std::size_t scratch_bytes(const Problem& problem, const Config& config) {
  const index_t line = kCacheLine / element_bytes(problem.dtype), tile = kMaxTileRows * 4 * kMaxLanes;
  index_t elements = 0;
  switch (problem.op) {
    case Op::band_out: {
      const index_t depth = smaller(problem.dim, kPackedDepth);
      elements = depth * (config.block_keys + kMaxLanes + 2 * line + kMaxTileRows) + tile;
      if (depth < problem.dim) elements += config.block_rows * (config.block_keys + 4 * kMaxLanes);
      break;
    }
    case Op::band_in:
    case Op::band_in_transposed: {
      const index_t width = round_up(smaller(problem.dim, kPackedColumns), kMaxLanes);
      elements = (config.block_rows + config.block_keys) * width + kMaxLanes + (kGroupStride + 1) * config.block_keys +
                 4 * kMaxTileRows * kMaxTileRows + tile;
      break;
    }
    case Op::softmax:
    case Op::softmax_backward:
      elements = 2 * (smaller(problem.band.width(), kMaxWidth) + 3 * kMaxLanes);
      break;
    case Op::attention:
    case Op::attention_backward:
      break;
  }
  return static_cast<std::size_t>(elements * element_bytes(problem.dtype));
}

// ---- WHERE --------------------------------------------------------------------------------------------------------------------------

// Band storage in (row, column) coordinates of a band whose rows are queries: slot = column - first(row).
Operand by_columns(const Matrix& m, const Band& band, DType dtype) {
  const auto unsigned_of = [](index_t n) { return static_cast<std::uintptr_t>(n); };  // products modulo 2^64, as addresses are
  const std::uintptr_t skipped = unsigned_of(band.left - band.shift) * unsigned_of(m.col_stride) * size_of(dtype);
  return {m.address + skipped, m.row_stride - m.col_stride, m.col_stride};
}
Operand transposed(const Operand& o) { return {o.address, o.col_stride, o.row_stride}; }
Operand as_it_is(const Matrix& m) { return {m.address, m.row_stride, m.col_stride}; }

Block block_of(const Problem& problem, const Config& config, const Task& task, Range rows) {
  Block block{};
  block.band = output_band(problem.op, task.band);
  block.rows = rows;
  const bool sums = problem.op == Op::band_in || problem.op == Op::band_in_transposed;
  block.x = sums ? by_columns(task.x, task.band, problem.dtype) : as_it_is(task.x);
  if (writes_keys(problem.op)) block.x = transposed(block.x);
  block.y = as_it_is(task.y);
  block.out = as_it_is(task.out);
  block.dim = problem.dim;
  block.block_keys = config.block_keys;
  block.fill = problem.fill;
  return block;
}

// Work items, numbered: heads of all batches, in each its dilation parts, in each its blocks of rows. Their order and extent do not depend
// on the executor: neither do the results.
class WorkList {
 public:
  WorkList(const Problem& problem, index_t block_rows)
      : problem_(problem), block_rows_(block_rows), band_(output_band(problem.op, problem.band)) {
    index_t end = 0;
    for (index_t head = 0; head < heads_of_a_round(); ++head) ends_.push_back(end += items_of(head));
  }

  index_t size() const { return problem_.batch * problem_.heads / heads_of_a_round() * ends_.back(); }

  // Calls f(index of the head in all batches, part, rows) for item `item`; not at all where the part has no such rows.
  template <class F>
  void visit(index_t item, F&& f) const {
    const index_t round = item / ends_.back();
    index_t rest = item % ends_.back(), head = 0;
    while (rest >= ends_[static_cast<std::size_t>(head)]) ++head;
    if (head > 0) rest -= ends_[static_cast<std::size_t>(head - 1)];
    const index_t part = rest / blocks_of_a_part(head), block = rest % blocks_of_a_part(head);
    const index_t rows_of_part = dilated_part(band_, problem_.dilation_of(head), part).band.rows;
    const Range rows{block * block_rows_, smaller((block + 1) * block_rows_, rows_of_part)};
    if (!rows.empty()) f(round * heads_of_a_round() + head, part, rows);
  }

 private:
  index_t heads_of_a_round() const { return static_cast<index_t>(problem_.dilation.size()); }  // after which the dilations repeat
  index_t blocks_of_a_part(index_t head) const { return ceil_div(ceil_div(band_.rows, problem_.dilation_of(head)), block_rows_); }
  index_t items_of(index_t head) const { return dilated_parts(band_, problem_.dilation_of(head)) * blocks_of_a_part(head); }

  const Problem& problem_;
  index_t block_rows_;
  Band band_;
  std::vector<index_t> ends_;  // of the items of each head of a round
};

int kernel_of(Op op) {
  switch (op) {
    case Op::band_out:
      return IsaKernels::kBandOut;
    case Op::band_in:
    case Op::band_in_transposed:
      return IsaKernels::kBandIn;
    case Op::softmax:
      return IsaKernels::kSoftmax;
    case Op::softmax_backward:
      return IsaKernels::kSoftmaxBackward;
    case Op::attention:
    case Op::attention_backward:
      break;
  }
  return 0;
}

template <const IsaKernels& (*kernels)()>
Status run(const Problem& problem, const Config& config, const Args& args) {
  const int dtype = static_cast<int>(problem.dtype);
  if (problem.op == Op::attention) return run_attention(kernels().attention[dtype], problem, config, args);
  if (problem.op == Op::attention_backward) return run_attention_backward(kernels().attention_backward[dtype], problem, config, args);
  const BlockKernel kernel = kernels().run[kernel_of(problem.op)][dtype];
  const WorkList items(problem, config.block_rows);
  const auto run_item = [&](index_t item, void* scratch, index_t* multiply_adds) {
    items.visit(item, [&](index_t head, index_t part, Range rows) {
      Block block = block_of(problem, config, task_of(problem, args, head, part), rows);
      block.scratch = scratch, block.multiply_adds = multiply_adds;
      kernel(block);
    });
  };
  return run_items(args.executor, args.stats, items.size(), scratch_bytes(problem, config), run_item);
}

template <const IsaKernels& (*kernels)()>
index_t spin(DType dtype, index_t steps) {
  return dtype == DType::f64 ? kernels().spin_f64(steps) : kernels().spin_f32(steps);
}

// ---- the rows -----------------------------------------------------------------------------------------------------------------------

bool refuse(std::string* why_not, const char* reason) {
  *why_not = reason;
  return false;
}
bool supports_scalar(const Problem&, const DeviceInfo& device, std::string* why_not) {
  return is_on(DeviceInfo::Kind::cpu, device, why_not);
}
bool supports_avx2(const Problem&, const DeviceInfo& device, std::string* why_not) {
  if (!is_on(DeviceInfo::Kind::cpu, device, why_not)) return false;
  if (!WINDOW_MATMUL_HAS_AVX2) return refuse(why_not, "not built (WINDOW_MATMUL_AVX2=OFF)");
  return device.avx2 || refuse(why_not, "this processor or operating system has no AVX2, FMA and F16C");
}
bool supports_avx512(const Problem&, const DeviceInfo& device, std::string* why_not) {
  if (!is_on(DeviceInfo::Kind::cpu, device, why_not)) return false;
  if (!WINDOW_MATMUL_HAS_AVX512) return refuse(why_not, "not built (WINDOW_MATMUL_AVX512=OFF)");
  return device.avx512 || refuse(why_not, "this processor or operating system has no AVX-512 F, BW, DQ and VL");
}
bool supports_avx512bf16(const Problem& problem, const DeviceInfo& device, std::string* why_not) {
  if (!is_on(DeviceInfo::Kind::cpu, device, why_not)) return false;
  if (!WINDOW_MATMUL_HAS_AVX512BF16) return refuse(why_not, "not built (WINDOW_MATMUL_AVX512BF16=OFF)");
  if (!device.avx512bf16) return refuse(why_not, "this processor or operating system has no AVX-512 BF16");
  return problem.dtype == DType::bf16 || refuse(why_not, "takes bf16 alone");
}
// On Intel's processors two multiply-adds of fp32 take half the time of a product of pairs.
bool has_slow_pairs(const DeviceInfo& device) { return !device.fast_bf16; }
bool supports_amx(const Problem& problem, const DeviceInfo& device, std::string* why_not) {
  if (!is_on(DeviceInfo::Kind::cpu, device, why_not)) return false;
  if (!WINDOW_MATMUL_HAS_AMX) return refuse(why_not, "not built (WINDOW_MATMUL_AMX=OFF)");
  if (!device.amx) return refuse(why_not, "this processor or operating system has no AMX for bf16 and no AVX-512 BF16");
  return (is_attention(problem.op) && problem.dtype == DType::bf16) || refuse(why_not, "takes fused attention of bf16 alone");
}

#if !WINDOW_MATMUL_HAS_AVX2
}  // namespace
const IsaKernels& avx2_kernels() { return scalar_kernels(); }
namespace {
#endif
#if !WINDOW_MATMUL_HAS_AVX512
}  // namespace
const IsaKernels& avx512_kernels() { return scalar_kernels(); }
namespace {
#endif
#if !WINDOW_MATMUL_HAS_AVX512BF16
}  // namespace
const IsaKernels& avx512bf16_kernels() { return scalar_kernels(); }
namespace {
#endif
#if !WINDOW_MATMUL_HAS_AMX
}  // namespace
const IsaKernels& amx_kernels() { return scalar_kernels(); }
namespace {
#endif

}  // namespace

std::vector<Kernel> rows() {
  return {
      {"cpu.amx", 35, supports_amx, configure_pairs, run<amx_kernels>, WINDOW_MATMUL_EMULATE_AVX512 ? nullptr : spin<amx_kernels>},
      {"cpu.avx512bf16", 32, supports_avx512bf16, configure, run<avx512bf16_kernels>,
       WINDOW_MATMUL_EMULATE_AVX512 ? nullptr : spin<avx512bf16_kernels>, has_slow_pairs},
      {"cpu.avx512", 30, supports_avx512, configure, run<avx512_kernels>, WINDOW_MATMUL_EMULATE_AVX512 ? nullptr : spin<avx512_kernels>},
      {"cpu.avx2", 20, supports_avx2, configure, run<avx2_kernels>, spin<avx2_kernels>},
      {"cpu.scalar", 10, supports_scalar, configure, run<scalar_kernels>, spin<scalar_kernels>}};
}

}  // namespace window_matmul::cpu
