// src/reference/reference.hpp: the row "reference" of the kernel table.
#pragma once

#include "window_matmul/backends.hpp"

namespace window_matmul::reference {

bool supports(const Problem&, const DeviceInfo&, std::string* why_not);
Config configure(const Problem&, const DeviceInfo&);
Status run(const Problem&, const Config&, const Args&);

}  // namespace window_matmul::reference
