// tests/c/xla_test.cpp: calls as XLA makes them, by hand: results, what vmap adds, the question for the version, and what is refused.
#include "c_api/xla.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <list>
#include <memory>
#include <string>
#include <vector>

namespace window_matmul::c_api::xla {
struct Error {
  std::string message;
  int code;
};
}  // namespace window_matmul::c_api::xla

namespace {

namespace xla = window_matmul::c_api::xla;
using Dims = std::vector<std::int64_t>;
using Function = xla::Error* (*)(xla::CallFrame*);

xla::Error* create_error(xla::ErrorArguments* given) { return new xla::Error{given->message, given->code}; }

// The arguments or the results of a call.
class Buffers {
 public:
  void add(const std::string& name, int dtype, const void* data, const Dims& dims) {
    dims_.push_back(dims);
    buffers_.push_back(
        {sizeof(xla::Buffer), nullptr, dtype, const_cast<void*>(data), static_cast<std::int64_t>(dims.size()), dims_.back().data()});
    pointers_.push_back(&buffers_.back());
    kinds_.push_back(xla::kDenseBuffer);
    names += (names.empty() ? "" : " ") + name;
  }
  xla::Buffers list() { return {sizeof(xla::Buffers), nullptr, static_cast<std::int64_t>(kinds_.size()), kinds_.data(), pointers_.data()}; }
  std::string names;

 private:
  std::list<Dims> dims_;
  std::list<xla::Buffer> buffers_;
  std::vector<void*> pointers_;
  std::vector<int> kinds_;
};

// A call, and all it points to.
class Call {
 public:
  explicit Call(Dims window) : window_(std::move(window)) { add("window", xla::kArray, &window_array_); }

  void real(const char* name, double x) {
    reals_.push_back(x);
    scalars_.push_back({xla::kF64, &reals_.back()});
    add(name, xla::kScalar, &scalars_.back());
  }
  void integer(const char* name, std::int64_t n) {
    integers_.push_back(n);
    scalars_.push_back({xla::kS64, &integers_.back()});
    add(name, xla::kScalar, &scalars_.back());
  }
  void attention_options() { real("softcap", 0), real("dropout_p", 0), integer("global_tokens", 0); }

  // The message of what is refused, "" where it worked.
  std::string run(Function function) {
    const xla::Text operands{arguments.names.data(), arguments.names.size()}, of_results{results.names.data(), results.names.size()};
    window_array_ = {xla::kS64, window_.size(), window_.data()};
    add("operands", xla::kText, &operands), add("results", xla::kText, &of_results);
    xla::CallFrame frame{sizeof frame, nullptr, &api, nullptr, stage, arguments.list(), results.list(), {}};
    frame.attributes = {sizeof frame.attributes, nullptr,       static_cast<std::int64_t>(kinds_.size()),
                        kinds_.data(),           names_.data(), values_.data()};
    frame.size -= missing_bytes, frame.results.size += more_bytes_of_results;
    const std::unique_ptr<xla::Error> error(function(&frame));
    code = error ? error->code : 0;
    return error ? error->message : "";
  }

  Buffers arguments, results;
  xla::Api api{sizeof api, nullptr, {sizeof(xla::Version), nullptr, 0, 3}, nullptr, create_error};
  int stage = xla::kExecute, code = 0;
  std::size_t missing_bytes = 0, more_bytes_of_results = 0;

 private:
  void add(const std::string& name, int kind, const void* value) {
    texts_.push_back(name);
    spans_.push_back({texts_.back().data(), texts_.back().size()});
    names_.push_back(&spans_.back()), kinds_.push_back(kind), values_.push_back(const_cast<void*>(value));
  }

  Dims window_;
  xla::Array window_array_{};
  std::list<double> reals_;
  std::list<std::int64_t> integers_;
  std::list<xla::Scalar> scalars_;
  std::list<std::string> texts_;
  std::list<xla::Text> spans_;
  std::vector<xla::Text*> names_;
  std::vector<int> kinds_;
  std::vector<void*> values_;
};

const std::vector<double> kX{1, 2, 3, 4, 5, 6, 7, 8};
const std::vector<double> kScores{0, 5, 11, 11, 25, 39, 39, 61, 83, 83, 113, 0};  // of kX (4, 2) with itself, one key on each side
const Dims kWindow{1, 1, 1, 0};

// The scores of kX with itself.
void ask_for_scores(Call* call, double* a) {
  call->arguments.add("q", xla::kF64, kX.data(), {4, 2}), call->arguments.add("k", xla::kF64, kX.data(), {4, 2});
  call->results.add("a", xla::kF64, a, {4, 3}), call->real("fill", 0);
}

TEST(Xla, BandsAndTheirDerivatives) {
  std::vector<double> a(12), o(8), c(8), p(12), d(12);
  Call out(kWindow);
  ask_for_scores(&out, a.data());
  EXPECT_EQ(out.run(wm_xla_band_out), "");
  EXPECT_EQ(a, kScores);
  const std::vector<double> ones(12, 1), neighbours{4, 6, 9, 12, 15, 18, 12, 14};
  Call in(kWindow), back(kWindow), softmax(kWindow), backward(kWindow);
  in.arguments.add("a", xla::kF64, ones.data(), {4, 3}), in.arguments.add("v", xla::kF64, kX.data(), {4, 2});
  in.results.add("o", xla::kF64, o.data(), {4, 2});
  EXPECT_EQ(in.run(wm_xla_band_in), "");
  back.arguments.add("a", xla::kF64, ones.data(), {4, 3}), back.arguments.add("x", xla::kF64, kX.data(), {4, 2});
  back.results.add("o", xla::kF64, c.data(), {4, 2});
  EXPECT_EQ(back.run(wm_xla_band_in_transposed), "");
  EXPECT_EQ(o, neighbours);
  EXPECT_EQ(c, neighbours);  // ones: symmetric
  softmax.arguments.add("a", xla::kF64, ones.data(), {4, 3}), softmax.results.add("p", xla::kF64, p.data(), {4, 3});
  softmax.integer("num_keys", 4);
  EXPECT_EQ(softmax.run(wm_xla_window_softmax), "");
  EXPECT_EQ(std::vector<double>(p.begin(), p.begin() + 3), (std::vector<double>{0, 0.5, 0.5}));
  backward.arguments.add("g", xla::kF64, ones.data(), {4, 3}), backward.arguments.add("p", xla::kF64, p.data(), {4, 3});
  backward.results.add("d", xla::kF64, d.data(), {4, 3}), backward.integer("num_keys", 4);
  EXPECT_EQ(backward.run(wm_xla_window_softmax_backward), "");
  for (const double x : d) EXPECT_LT(std::fabs(x), 1e-15);  // three products of numbers below 1, rounded
}

// Two calls in one, which share k: of zero scores, so that each query has the mean of its values.
TEST(Xla, WhatVmapMapsIsACallEach) {
  const std::vector<double> zeros(8), v{1, 3, 5, 7, 2, 6, 10, 14}, d_out(8, 1);
  const std::vector<std::uint8_t> mask{1, 1, 1, 0};
  std::vector<double> out(8), lse(8), d_v(8);
  const Dims own{2, 1, 1, 4, 1}, shared{1, 1, 1, 4, 1};
  Call call({1, 0, 0, 0}), backward({1, 0, 0, 0});
  for (Call* each : {&call, &backward}) {
    each->arguments.add("q", xla::kF64, zeros.data(), own), each->arguments.add("k", xla::kF64, zeros.data(), shared);
    each->arguments.add("v", xla::kF64, v.data(), own), each->arguments.add("key_mask", xla::kPred, mask.data(), {1, 1, 4});
    each->attention_options();
  }
  call.results.add("out", xla::kF64, out.data(), own), call.results.add("lse", xla::kF64, lse.data(), {2, 1, 1, 4});
  EXPECT_EQ(call.run(wm_xla_window_attention), "");
  EXPECT_EQ(out, (std::vector<double>{1, 2, 4, 5, 2, 4, 8, 10}));
  backward.arguments.add("out", xla::kF64, out.data(), own), backward.arguments.add("lse", xla::kF64, lse.data(), {2, 1, 1, 4});
  backward.arguments.add("d_out", xla::kF64, d_out.data(), own), backward.results.add("d_v", xla::kF64, d_v.data(), own);
  EXPECT_EQ(backward.run(wm_xla_window_attention_backward), "");
  EXPECT_EQ(d_v, (std::vector<double>{1.5, 1, 1.5, 0, 1.5, 1, 1.5, 0}));
}

TEST(Xla, AsksForTheVersion) {
  for (const Function function : {wm_xla_band_out, wm_xla_window_attention}) {
    xla::Metadata metadata{sizeof metadata, {sizeof(xla::Version), nullptr, -1, -1}, 7};
    xla::MetadataExtension extension{{sizeof extension, xla::kMetadata, nullptr}, &metadata};
    xla::CallFrame frame{};
    frame.size = sizeof frame, frame.extensions = &extension.base;
    EXPECT_EQ(function(&frame), nullptr);
    EXPECT_EQ(metadata.version.major_version, 0);
    EXPECT_EQ(metadata.version.minor_version, 1);
    EXPECT_EQ(metadata.traits, 0U);
  }
}

TEST(Xla, RefusesXlaOfAnotherAge) {
  std::vector<double> a(12);
  const auto said = [&](auto change) {
    Call call(kWindow);
    ask_for_scores(&call, a.data());
    change(call);
    const std::string message = call.run(wm_xla_band_out);
    EXPECT_EQ(call.code, xla::kInvalidArgument);
    return message;
  };
  EXPECT_EQ(said([](Call& call) { call.api.version.major_version = 1; }),
            "the version of XLA's FFI is 1.3; it needs to be 0.1 or a later 0");
  EXPECT_EQ(said([](Call& call) { call.api.version.minor_version = 0; }),
            "the version of XLA's FFI is 0.0; it needs to be 0.1 or a later 0");
  EXPECT_EQ(said([](Call& call) { call.stage = 0; }), "the stage of XLA's call is 0; it needs to be 3, execution");
  EXPECT_NE(said([](Call& call) { call.missing_bytes = 8; }).find("XLA's call frame has 160 bytes; it needs to have 168"),
            std::string::npos);
  EXPECT_NE(said([](Call& call) { call.more_bytes_of_results = 8; }).find("XLA's results has 48 bytes; it needs to have 40"),
            std::string::npos);
  EXPECT_EQ(a, std::vector<double>(12));
}

TEST(Xla, RefusesWhatTheOperatorsRefuse) {
  std::vector<double> a(12);
  Call nothing(kWindow), unnamed(kWindow), strange(kWindow), narrow(kWindow), short_window({1, 1}), flat(kWindow), whole(kWindow);
  EXPECT_EQ(nothing.run(wm_xla_band_out), "k is missing");
  EXPECT_EQ(nothing.code, xla::kInvalidArgument);
  unnamed.arguments.add("", xla::kF64, kX.data(), {4, 2});
  EXPECT_EQ(unnamed.run(wm_xla_band_out), "XLA's buffer 0 has no name, or is none");
  strange.arguments.add("q", 2, kX.data(), {4, 2});
  EXPECT_EQ(strange.run(wm_xla_band_out), "a buffer is of XLA's dtype 2, which no argument has");
  narrow.arguments.add("q", xla::kF64, kX.data(), {4, 2}), narrow.arguments.add("k", xla::kF64, kX.data(), {2, 4});
  narrow.results.add("a", xla::kF64, a.data(), {4, 3}), narrow.real("fill", 0);
  EXPECT_EQ(narrow.run(wm_xla_band_out), "band_out: k (4, 2): dim -2 needs to be 2, the last dim of q");
  short_window.arguments.add("k", xla::kF64, kX.data(), {4, 2});
  EXPECT_EQ(short_window.run(wm_xla_band_out), "the attribute 'window' has 2 numbers; it needs 4");
  whole.arguments.add("k", xla::kF64, kX.data(), {4, 2}), whole.integer("fill", 0);
  EXPECT_EQ(whole.run(wm_xla_band_out), "the attribute 'fill' needs to be a float64");
  flat.arguments.add("q", xla::kF64, kX.data(), {4, 2});
  EXPECT_EQ(flat.run(wm_xla_window_attention), "q needs to be (B, H, Lq, D), behind the dims that vmap maps");
}

TEST(Xla, RefusesDimsOfVmapThatDoNotFit) {
  const std::vector<double> x(24);
  Call call({1, 0, 0, 0});
  call.arguments.add("q", xla::kF64, x.data(), {2, 1, 1, 4, 1}), call.arguments.add("k", xla::kF64, x.data(), {3, 1, 1, 4, 1});
  call.attention_options();
  EXPECT_EQ(call.run(wm_xla_window_attention), "k has not the dims that vmap maps");
}

}  // namespace
