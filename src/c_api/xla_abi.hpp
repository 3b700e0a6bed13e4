// src/c_api/xla_abi.hpp: what XLA hands to a function that it calls, and takes back: as much of its C ABI as is used.
//
// Facts of xla/ffi/api/c_api.h in github.com/openxla/xla (XLA_FFI_CallFrame and what hangs on it), version 0.1; versions up to 0.3 have the
// same in these places. A struct begins with its size, counted up to its last field, and a list of extensions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace window_matmul::c_api::xla {

inline constexpr int kMajorVersion = 0, kMinorVersion = 1;

enum DataType : int { kPred = 1, kS32 = 4, kS64 = 5, kF16 = 10, kF32 = 11, kF64 = 12, kBF16 = 16 };
enum ErrorCode : int { kInvalidArgument = 3, kResourceExhausted = 8, kUnimplemented = 12, kInternal = 13 };
enum BufferKind : int { kDenseBuffer = 1 };
enum AttributeKind : int { kArray = 1, kScalar = 3, kText = 4 };
enum Stage : int { kExecute = 3 };
enum ExtensionKind : int { kMetadata = 1 };

struct Extension {
  std::size_t size;
  int kind;
  Extension* next;
};

struct Version {
  std::size_t size;
  Extension* extensions;
  int major_version, minor_version;
};

struct Error;  // XLA's own

struct ErrorArguments {
  std::size_t size;
  Extension* extensions;
  const char* message;
  int code;
};

struct Api {
  std::size_t size;
  Extension* extensions;
  Version version;
  void* internal;
  Error* (*create_error)(ErrorArguments*);  // many more follow
};

struct Buffer {  // row-major
  std::size_t size;
  Extension* extensions;
  int dtype;
  void* data;
  std::int64_t rank;
  std::int64_t* dims;
};

struct Buffers {  // the arguments, or the results
  std::size_t size;
  Extension* extensions;
  std::int64_t count;
  int* kinds;
  void** buffers;
};

struct Text {
  const char* data;
  std::size_t size;
};

struct Scalar {
  int dtype;
  void* value;
};

struct Array {
  int dtype;
  std::size_t count;
  void* data;
};

struct Attributes {
  std::size_t size;
  Extension* extensions;
  std::int64_t count;
  int* kinds;
  Text** names;
  void** values;
};

struct CallFrame {
  std::size_t size;
  Extension* extensions;
  const Api* api;
  void* context;
  int stage;
  Buffers arguments, results;
  Attributes attributes;  // one more follows
};

struct Metadata {
  std::size_t size;
  Version version;
  std::uint32_t traits;  // one more follows
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

}  // namespace window_matmul::c_api::xla
