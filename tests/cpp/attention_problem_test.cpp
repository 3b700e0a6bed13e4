// tests/cpp/attention_problem_test.cpp: problems of fused attention as values: equality, hash, text, their sequences, and their work; and
// the random words behind dropout.
#include <gtest/gtest.h>

#include <set>

#include "attention_trial.hpp"
#include "philox.hpp"
#include "validate_attention.hpp"

namespace window_matmul {
namespace {

using namespace testing_tools;

const Problem kProblem{.op = Op::attention,
                       .dtype = DType::f32,
                       .band = {40, 50, 3, 2, 10},
                       .dilation = {2},
                       .batch = 5,
                       .heads = 6,
                       .dim = 7,
                       .attention = {.kv_heads = 3, .value_dim = 8, .scale = 0.125}};

// One with each option changed.
std::vector<Problem> variations() {
  using Change = void (*)(AttentionOptions&);
  const Change changes[] = {[](AttentionOptions& a) { a.kv_heads = 2; },
                            [](AttentionOptions& a) { a.value_dim = 9; },
                            [](AttentionOptions& a) { a.scale = 0.25; },
                            [](AttentionOptions& a) { a.softcap = 30; },
                            [](AttentionOptions& a) { a.dropout_p = 0.5; },
                            [](AttentionOptions& a) { a.bias = AttentionOptions::Bias::per_slot; },
                            [](AttentionOptions& a) { a.bias = AttentionOptions::Bias::full; },
                            [](AttentionOptions& a) { a.key_mask = true; },
                            [](AttentionOptions& a) { a.sinks = true; },
                            [](AttentionOptions& a) { a.global_mask = true; },
                            [](AttentionOptions& a) { a.global_tokens = 3; },
                            [](AttentionOptions& a) { a.global_queries = true; },
                            [](AttentionOptions& a) { a.wide_out = true; },
                            [](AttentionOptions& a) { a.split_lse = true; },
                            [](AttentionOptions& a) { a.cu_q = {0, 1, 40}; },
                            [](AttentionOptions& a) { a.cu_q = {0, 2, 40}; },
                            [](AttentionOptions& a) { a.cu_k = {0, 2, 40}; },
                            [](AttentionOptions& a) { a.key_lengths = {1, 2}; },
                            [](AttentionOptions& a) { a.shifts = {1, 2}; }};
  std::vector<Problem> all;
  for (const Change change : changes) {
    all.push_back(kProblem);
    change(all.back().attention);
  }
  all.push_back(kProblem);
  all.back().op = Op::attention_backward;
  return all;
}

TEST(AttentionProblem, EveryOptionCounts) {
  std::set<std::string> texts = {to_string(kProblem)};
  std::set<std::size_t> hashes = {std::hash<Problem>{}(kProblem)};
  for (const Problem& p : variations()) {
    EXPECT_NE(p, kProblem) << to_string(p);
    EXPECT_EQ(p, Problem(p));
    EXPECT_TRUE(texts.insert(to_string(p)).second) << to_string(p);
    EXPECT_TRUE(hashes.insert(std::hash<Problem>{}(p)).second) << to_string(p);
  }
  Problem minus_zero = kProblem, zero = kProblem;
  minus_zero.attention.scale = -0.0, zero.attention.scale = 0;
  EXPECT_EQ(minus_zero, zero);
  EXPECT_EQ(std::hash<Problem>{}(minus_zero), std::hash<Problem>{}(zero)) << "equal, so the hash must be";
}

TEST(AttentionProblem, IsOneLineThatNamesTheOptionsInUse) {
  const std::string plain =
      "attention float32 batch=5 heads=6 queries=40 keys=50 dim=7 window=(3,2) shift=10 dilation=2 kv_heads=3 value_dim=8 scale=0.125";
  EXPECT_EQ(to_string(kProblem), plain);
  Problem p = kProblem;
  p.op = Op::attention_backward;
  p.attention = {.kv_heads = 1, .value_dim = 2, .scale = 1, .softcap = 30, .dropout_p = 0.1, .bias = AttentionOptions::Bias::full};
  p.attention.key_mask = p.attention.sinks = p.attention.global_queries = true;
  p.attention.global_tokens = 4, p.attention.cu_q = {0, 7, 40}, p.attention.cu_k = {0, 9, 50};
  EXPECT_EQ(to_string(p),
            "attention_backward float32 batch=5 heads=6 queries=40 keys=50 dim=7 window=(3,2) shift=10 dilation=2 kv_heads=1 value_dim=2 "
            "scale=1 softcap=30 dropout_p=0.1 bias=full key_mask sinks global_tokens=4 global_queries cu_q=0,7,40 cu_k=0,9,50");
  p = kProblem;
  p.attention.key_lengths = {9, 50}, p.attention.shifts = {-31, 10};
  EXPECT_EQ(to_string(p), plain + " key_lengths=9,50 shifts=-31,10");
}

// The problem that a right call makes.
Problem problem_of(const AttentionCase& c) {
  const AttentionTrial trial(c, 1);
  const AttentionInputs in = trial.inputs();
  const TensorView out = trial.out.view(), lse = trial.lse.view();
  Problem problem;
  Args args;
  EXPECT_EQ(validate(AttentionCall{.in = in, .out = out, .lse = lse}, &problem, &args).message(), "");
  return problem;
}

TEST(AttentionProblem, MultiplyAddsAreThePairsOfTheWindow) {
  Random random(1);
  for (int n = 0; n < 500; ++n) {
    AttentionCase c = any_attention_with_options(random, 12, 5, random.up_to(4));
    c.key_mask = c.global_mask = c.hides = false, c.global_tokens = 0;
    const AttentionTrial trial(c, 1);
    const AttentionValues<double> x = trial.values();
    const AttentionDefinition<double> definition(c, x);
    index_t pairs = 0;
    for_each_row(c, [&](index_t s, index_t h, index_t i) { pairs += static_cast<index_t>(definition.sight(s, h, i).size()); });
    Problem p = problem_of(c);
    ASSERT_EQ(p.multiply_adds(), pairs * (c.dim + c.value_dim)) << to_string(p);
    p.op = Op::attention_backward;
    ASSERT_EQ(p.multiply_adds(), pairs * (3 * c.dim + 2 * c.value_dim)) << to_string(p);
  }
}

TEST(AttentionProblem, SequencesAreThoseOfTheCase) {
  Random random(2);
  for (int n = 0; n < 500; ++n) {
    const AttentionCase c = any_attention_with_options(random, 12, 2, random.up_to(4));
    const Problem p = problem_of(c);
    const std::vector<Piece> pieces = c.pieces();
    ASSERT_EQ(num_sequences(p), static_cast<index_t>(pieces.size())) << text(c);
    for (std::size_t s = 0; s < pieces.size(); ++s) {
      const Sequence sequence = sequence_of(p, static_cast<index_t>(s));
      const Piece& piece = pieces[s];
      EXPECT_EQ(sequence.batch, piece.batch);
      EXPECT_EQ(sequence.queries, (Range{piece.first_query, piece.first_query + piece.queries}));
      EXPECT_EQ(sequence.keys, (Range{piece.first_key, piece.first_key + piece.keys}));
      const Band band{piece.queries, piece.keys, p.band.left, p.band.right, piece.shift};
      const bool alone = !c.key_lengths.empty() || !c.query_offsets.empty();
      EXPECT_EQ(sequence.band, alone && c.bias_rank == 0 ? without_overhang(band) : band) << text(c);
      const bool both_ways = piece.queries == piece.keys && piece.shift == 0 && c.window.right > 0;
      EXPECT_EQ(has_global_queries(p, sequence) && c.keys > 0, both_ways && (c.global_mask || c.global_tokens > 0) && c.keys > 0)
          << text(c);
    }
  }
}

TEST(AttentionProblem, SidesBeyondTheSequenceAreCutButNotWithABias) {
  AttentionCase c{.queries = 5, .keys = 9, .window = {kUnbounded, std::numeric_limits<index_t>::max()}};
  const Band cut = problem_of(c).band;
  for (index_t i = 0; i < 5; ++i) EXPECT_EQ(cut.keys(i), (Range{0, 9}));
  EXPECT_LE(cut.width(), 20);
  c.window = {30, 0}, c.bias_rank = 2;
  EXPECT_EQ(problem_of(c).band, (Band{5, 9, 30, 0, 4}));
  c.window = {30, 0}, c.bias_rank = 0;
  EXPECT_EQ(problem_of(c).band.right, 0) << "nothing later is seen";
  c.window = {0, 7, {}, 100};
  EXPECT_GT(problem_of(c).band.right, 0) << "later keys, and global ones, would be seen";
}

TEST(AttentionProblem, ScaleIsOneOverTheRootOfTheDimByDefault) {
  AttentionCase c{.queries = 3, .keys = 3, .dim = 16};
  EXPECT_EQ(problem_of(c).attention.scale, 0.25);
  c.scale = -3;
  EXPECT_EQ(problem_of(c).attention.scale, -3);
}

// The known answers that the generator's authors publish.
TEST(Philox, KnownAnswers) {
  const struct {
    PhiloxWords counter;
    std::uint64_t seed;
    PhiloxWords want;
  } known[] = {
      {{{0, 0, 0, 0}}, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
      {{{~0u, ~0u, ~0u, ~0u}}, ~std::uint64_t{0}, {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822, {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}}};
  for (const auto& k : known) {
    const PhiloxWords got = philox4x32_10(k.counter, k.seed);
    const PhiloxCounter counter = std::to_array(k.counter.word);
    for (std::size_t n = 0; n < 4; ++n) {
      EXPECT_EQ(got.word[n], k.want.word[n]);
      EXPECT_EQ(philox_word(k.seed, counter, n), k.want.word[n]) << "the definition's own";
    }
  }
}

TEST(Philox, DropoutKeepsTheShareItIsAskedFor) {
  for (const double p : {0.0, 0.1, 0.5, 0.99, 1.0}) {
    int dropped = 0;
    constexpr int kRows = 100, kKeys = 1000;
    for (index_t i = 0; i < kRows; ++i)
      for (index_t j = 0; j < kKeys; ++j) dropped += !dropout_keeps(7, p, 1, 2, i, j);
    const double deviation = std::sqrt(p * (1 - p) * kRows * kKeys);
    EXPECT_NEAR(dropped, p * kRows * kKeys, 5 * deviation) << p;
  }
}

TEST(Philox, EveryCoordinateCounts) {
  const auto word = [](std::uint64_t seed, index_t b, index_t h, index_t i, index_t j) {
    return dropout_words(seed, b, h, i, j).word[j & 3];
  };
  std::set<std::uint32_t> seen = {
      word(1, 2, 3, 4, 5), word(2, 2, 3, 4, 5), word(1, 3, 3, 4, 5), word(1, 2, 4, 4, 5),
      word(1, 2, 3, 5, 5), word(1, 2, 3, 4, 6), word(1, 2, 3, 4, 9), word(std::uint64_t{1} << 32 | 1, 2, 3, 4, 5)};
  EXPECT_EQ(seen.size(), 8u);
}

}  // namespace
}  // namespace window_matmul
