// src/c_api/xla.cpp: the operators as functions that XLA calls: what the door for JAX registers.
#include <cstdlib>

#include "xla.hpp"
#include "xla_frame.hpp"

using namespace window_matmul;
using namespace window_matmul::c_api;
using xla::Frame;

namespace {

int code_of(int status) {
  if (status == WM_INVALID_ARGUMENT) return xla::kInvalidArgument;
  if (status == WM_UNSUPPORTED) return xla::kUnimplemented;
  return status == WM_OUT_OF_MEMORY ? xla::kResourceExhausted : xla::kInternal;
}

xla::Error* refuse(const xla::CallFrame& call, int status) {
  xla::ErrorArguments error{sizeof error, nullptr, wm_last_error(), code_of(status)};
  return call.api->create_error(&error);
}

// When a function is registered XLA asks for the version that it was written for, by an extension of an empty call.
bool answered_metadata(const xla::CallFrame& call) {
  if (call.extensions == nullptr || call.extensions->kind != xla::kMetadata) return false;
  xla::Metadata& metadata = *reinterpret_cast<xla::MetadataExtension*>(call.extensions)->metadata;
  metadata.version.major_version = xla::kMajorVersion, metadata.version.minor_version = xla::kMinorVersion;
  metadata.traits = 0;
  return true;
}

// body(frame) returns a status of the C interface, whose text is then this thread's last.
template <class F>
xla::Error* answer(const xla::CallFrame* call, F&& body) noexcept {
  if (answered_metadata(*call)) return nullptr;
  // Versions before 0.1, which do not ask, have create_error elsewhere: nobody can be told, and to return would mean that it worked.
  if (call->api == nullptr || call->api->size < sizeof *call->api) std::abort();
  int status = WM_OK;
  try {
    Frame frame(*call);
    status = body(frame);
  } catch (...) {
    status = remember_current_exception();
  }
  return status == WM_OK ? nullptr : refuse(*call, status);
}

// left, right, whether there is an offset, that, and the dilation.
wm_window window_in(const Frame& frame) {
  const std::span<const std::int64_t> numbers = frame.integers("window");
  if (numbers.size() < 4) throw Refusal{"the attribute 'window' has " + std::to_string(numbers.size()) + " numbers; it needs 4"};
  wm_window window{.left = numbers[0], .right = numbers[1]};
  if (numbers[2] != 0) window.query_offset = &numbers[3];
  window.dilation = numbers.data() + 4, window.num_dilations = static_cast<std::int64_t>(numbers.size()) - 4;
  return window;
}

std::uint64_t seed_of(const wm_tensor* words) {
  if (words == nullptr) return 0;
  if (words->dtype != WM_INT32 || words->ndim != 1 || words->shape[0] != 2) throw Refusal{"dropout_seed needs to be two int32"};
  const auto* word = static_cast<const std::uint32_t*>(words->data);
  return word[0] | std::uint64_t{word[1]} << 32;
}

wm_attention_options options_of(const Frame& frame) {
  wm_attention_options options = WM_ATTENTION_OPTIONS_INIT;
  options.scale = frame.real_if_given("scale");
  options.softcap = frame.real("softcap"), options.dropout_p = frame.real("dropout_p");
  options.global_tokens = frame.integer("global_tokens");
  options.bias = frame("bias"), options.sinks = frame("sinks");
  options.key_mask = frame("key_mask"), options.global_mask = frame("global_mask");
  options.key_lengths = frame("key_lengths"), options.query_offsets = frame("query_offsets");
  options.dropout_seed = seed_of(frame("dropout_seed"));
  return options;
}

// One call after another, as if there were no others: draws of dropout and sums over the batch are each call's own.
template <class F>
int for_each_entry(Frame& frame, F&& call) {
  if (frame("q") == nullptr || frame("q")->ndim < 4) throw Refusal{"q needs to be (B, H, Lq, D), behind the dims that vmap maps"};
  const index_t entries = frame.num_entries(frame("q")->ndim - 4);
  int status = WM_OK;
  for (index_t entry = 0; entry < entries && status == WM_OK; ++entry) {
    frame.turn_to(entry);
    status = call();
  }
  return status;
}

}  // namespace

xla::Error* wm_xla_band_out(xla::CallFrame* call) {
  return answer(call, [](const Frame& frame) {
    if (frame("k") == nullptr) throw Refusal{"k is missing"};
    const wm_window window = window_in(frame);
    const wm_tensor keys = wm_transposed(*frame("k"));
    return wm_band_out(&window, frame("q"), &keys, frame.real("fill"), frame("a"));
  });
}

xla::Error* wm_xla_band_in(xla::CallFrame* call) {
  return answer(call, [](const Frame& frame) {
    const wm_window window = window_in(frame);
    return wm_band_in(&window, frame("a"), frame("v"), frame("o"));
  });
}

xla::Error* wm_xla_band_in_transposed(xla::CallFrame* call) {
  return answer(call, [](const Frame& frame) {
    const wm_window window = window_in(frame);
    return wm_band_in_transposed(&window, frame("a"), frame("x"), frame("o"));
  });
}

xla::Error* wm_xla_window_softmax(xla::CallFrame* call) {
  return answer(call, [](const Frame& frame) {
    const wm_window window = window_in(frame);
    return wm_window_softmax(&window, frame.integer("num_keys"), frame("a"), frame("p"));
  });
}

xla::Error* wm_xla_window_softmax_backward(xla::CallFrame* call) {
  return answer(call, [](const Frame& frame) {
    const wm_window window = window_in(frame);
    return wm_window_softmax_backward(&window, frame.integer("num_keys"), frame("g"), frame("p"), frame("d"));
  });
}

xla::Error* wm_xla_window_attention(xla::CallFrame* call) {
  return answer(call, [](Frame& frame) {
    return for_each_entry(frame, [&] {
      const wm_window window = window_in(frame);
      const wm_attention_options options = options_of(frame);
      return wm_window_attention(&window, frame("q"), frame("k"), frame("v"), &options, frame("out"), frame("lse"));
    });
  });
}

xla::Error* wm_xla_window_attention_backward(xla::CallFrame* call) {
  return answer(call, [](Frame& frame) {
    return for_each_entry(frame, [&] {
      const wm_window window = window_in(frame);
      const wm_attention_options options = options_of(frame);
      wm_attention_gradients to = WM_ATTENTION_GRADIENTS_INIT;
      to.d_q = frame("d_q"), to.d_k = frame("d_k"), to.d_v = frame("d_v"), to.d_bias = frame("d_bias"), to.d_sinks = frame("d_sinks");
      return wm_window_attention_backward(&window, frame("q"), frame("k"), frame("v"), &options, frame("out"), frame("lse"), frame("d_out"),
                                          frame("d_lse"), &to);
    });
  });
}
