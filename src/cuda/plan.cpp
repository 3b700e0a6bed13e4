// src/cuda/plan.cpp: problems to grids.
#include "cuda/plan.hpp"

#include "cuda/kernels/band/softmax_shape.hpp"
#include "task.hpp"

namespace window_matmul::cuda {
namespace {

constexpr std::size_t kBytesX = 16 << 10, kBytesY = 8 << 10;  // of a stage; y: a panel
constexpr std::size_t kStages = 2, kStepsKept = 4;  // band_out keeps the queries of so many steps of the head dim

bool refuse(std::string* why_not, const char* reason) {
  *why_not = reason;
  return false;
}

bool is_softmax(Op op) { return op == Op::softmax || op == Op::softmax_backward; }

int lanes_of(const Problem& problem) {
  return softmax_lanes(problem.op == Op::softmax_backward, problem.band.width(), size_of(problem.dtype));
}

Operand operand_of(const Matrix& m) { return {m.address, m.row_stride, m.col_stride}; }

// Steps of a tensor's leading dims; a tensor that is not there has none.
void set_steps(const TensorView& tensor, index_t (&steps)[Launch::kMaxLeading]) {
  for (int d = 0; d + 2 < tensor.rank; ++d) steps[d] = tensor.stride[d];
}

Launch launch_of(const Problem& problem, const Args& args) {
  Launch launch;
  launch.band = output_band(problem.op, problem.band);
  launch.transposed = writes_keys(problem.op);
  launch.dim = problem.dim, launch.fill = problem.fill;
  launch.x = operand_of(matrix_of(args.x, 0)), launch.out = operand_of(matrix_of(args.out, 0));
  if (has_second_operand(problem.op)) launch.y = operand_of(matrix_of(problem.op == Op::band_out ? args.y.transposed() : args.y, 0));
  launch.y_like_x = problem.op == Op::softmax_backward;
  if (is_softmax(problem.op)) launch.item_rows = softmax_rows(lanes_of(problem));
  launch.rank = args.out.rank - 2;
  for (int d = 0; d < launch.rank; ++d) launch.shape[d] = args.out.shape[d];
  set_steps(args.x, launch.step_x), set_steps(args.y, launch.step_y), set_steps(args.out, launch.step_out);
  return launch;
}

void set_items(Launch& launch, Op op, index_t dilation) {
  const index_t moved = is_softmax(op) ? 0 : kMaxPhase;  // rows that the last block may begin earlier
  launch.dilation = dilation;
  launch.parts = dilated_parts(launch.band, dilation);
  launch.blocks = ceil_div(ceil_div(launch.band.rows, dilation) + moved, launch.item_rows);
  launch.items = launch.blocks * launch.parts;
  for (int d = 0; d < launch.rank; ++d) launch.items *= launch.shape[d];
}

// The same for one entry of the last leading dim.
Launch one_head(Launch launch, index_t head, std::uintptr_t element) {
  const int last = --launch.rank;
  const auto move = [&](Operand& m, const index_t* steps) { m.address += static_cast<std::uintptr_t>(times(head, steps[last])) * element; };
  move(launch.x, launch.step_x), move(launch.y, launch.step_y), move(launch.out, launch.step_out);
  return launch;
}

}  // namespace

index_t most_blocks(const Device& device) {
  constexpr index_t kWaves = 64;  // blocks a multiprocessor takes one after another; the rest is taken in turn, without a new block
  return smaller(index_t{device.multiprocessors} * kWaves, 0x7fffffff);
}

bool supports(const Problem& problem, const Device& device, std::string* why_not) {
  if (device.major < 8) return refuse(why_not, "this GPU is older than compute capability 8.0");
  return !is_attention(problem.op) || supports_attention(problem, device, why_not);
}

Plan configure(const Problem& problem, const Device& device) {
  if (is_attention(problem.op)) return configure_attention(problem, device);
  Plan plan{problem.op, problem.dtype};
  plan.max_blocks = most_blocks(device);
  if (is_softmax(problem.op)) {
    plan.lanes = lanes_of(problem);
    plan.shared_bytes = softmax_shared(plan.lanes, size_of(problem.dtype));
    return plan;
  }
  if (problem.dtype == DType::f32) plan.precision = problem.precision;
  const std::size_t two_panels = kStages * (kBytesX + 2 * kBytesY);
  // 128 sums of a thread take as many registers; of doubles twice as many, which is more than there are.
  const bool wide = problem.op != Op::band_out && problem.dim > 64 && problem.dtype != DType::f64;
  if (wide && two_panels <= device.shared_bytes_per_block) plan.panels = 2;
  const std::size_t stages_of_x = problem.op == Op::band_out ? kStepsKept : kStages;
  plan.shared_bytes = stages_of_x * kBytesX + kStages * static_cast<std::size_t>(plan.panels) * kBytesY;
  return plan;
}

std::vector<Launch> launches_of(const Problem& problem, const Args& args) {
  for (int d = 0; d < args.out.rank; ++d)
    if (args.out.shape[d] == 0) return {};
  const Launch all = launch_of(problem, args);
  std::vector<Launch> launches;
  if (problem.dilation.size() == 1)
    launches.push_back(all);
  else
    for (index_t head = 0; head < problem.heads; ++head) launches.push_back(one_head(all, head, size_of(problem.dtype)));
  for (std::size_t i = 0; i < launches.size(); ++i) set_items(launches[i], problem.op, problem.dilation[i]);
  return launches;
}

}  // namespace window_matmul::cuda
