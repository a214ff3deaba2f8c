#pragma once
#include "kernels/gpu/sample_row.cuh"

namespace troupe::kernels::gpu {

/// The second kernel of sample(): a block per row. `parts` is what the scan left, [row][chunk].
cudaError_t finish_samples(const sample_args&, const chunk_part* parts, cudaStream_t);

}  // namespace troupe::kernels::gpu
