#pragma once
// Names of functions, for diagnosis. Internal to the executor.
#include <string>

namespace moecheck::gpu::host {

// Of the function at that address, without namespaces and parameters: "add_one<64>". From the symbol table of the program or
// library that holds it; without one, "function at 0x1234".
std::string function_name(const void* address);

}  // namespace moecheck::gpu::host
