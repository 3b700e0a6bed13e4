// include/window_matmul/status.hpp: what a call says of itself: it worked, or why not.
#pragma once

#include <string>
#include <utility>

namespace window_matmul {

enum class StatusCode {
  ok,
  invalid_argument,  // the message names the argument, what it got and what it needs
  unsupported,       // no kernel takes this problem; the message lists every row of the table with its reason
  out_of_memory,     // no memory for a kernel's scratch
  device_failed,     // the GPU or its driver; the message has their text
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::ok; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::ok;
  std::string message_;
};

inline Status invalid_argument(std::string message) { return {StatusCode::invalid_argument, std::move(message)}; }

}  // namespace window_matmul
