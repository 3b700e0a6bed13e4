// tests/cpp/attention_tolerance.hpp: how far a kernel's results may be from the exact ones: the rounding of its sums, carried through.
//
// With u the roundoff of sums, a score of D products errs by (D + 8) u times their magnitude, its exponential by as much relatively, and a
// row of n keys by (n + 16) u more; the sum that it is divided by errs likewise: hence twice that. Every output is a sum of products of
// such probabilities with given numbers: its error is at most the sum of their magnitudes times the relative error of the row that each
// comes from. Backward may start from `out` as it was rounded. Where a row of the table multiplies weights, and the gradients of scores, as
// sums of two bf16, the first of them cut off and the second rounded, each of them errs by twice the square of the roundoff of bf16 more;
// by the roundoff of the dtype, where as one number of it. Three products of TF32 for one of fp32 leave out 2^-21 of it.
#pragma once

#include "attention_definition.hpp"

namespace window_matmul::testing_tools {

AttentionResults errors_of(const AttentionCase& c, const AttentionValues<double>& x);

}  // namespace window_matmul::testing_tools
