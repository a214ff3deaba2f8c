#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

/// What can go wrong on a card, as kernels to put into a step.
namespace troupe::test {

/// Writes where nothing is. The context is lost with it.
cudaError_t illegal_access(cudaStream_t);

/// Runs until *told, in pinned memory, is not 0; a minute at most, so that a failed test does not keep the card.
cudaError_t spin(const volatile std::uint32_t* told, cudaStream_t);

}  // namespace troupe::test
