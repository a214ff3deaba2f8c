#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <string>

/// The seams between the headers' templates and the emulator.
namespace simt {

/// A kernel's launch: `body` is what each thread runs, `name` what an error calls it.
cudaError_t launch(const cudaLaunchConfig_t&, const void* kernel, const char* name, std::function<void()> body);
/// Puts work of the host's into a stream, or into the graph that it captures. An error of it is the card's from then
/// on.
cudaError_t enqueue(cudaStream_t, std::function<std::string()> work);

cudaError_t set_most_shared_bytes(const void* kernel, int bytes);
cudaError_t blocks_per_sm(int* blocks, int threads, std::size_t shared_bytes);

}  // namespace simt
