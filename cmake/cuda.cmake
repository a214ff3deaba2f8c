# CUDA: used when a toolkit is found, never required. Kernels are kernels/gpu/*.cu; everything else that knows CUDA is src/gpu.
option(TROUPE_CUDA "build the CUDA backend when the toolkit is found" ON)
set(TROUPE_CUDA_ARCHITECTURES "80-real;89-real;90a-real;90-virtual" CACHE STRING "as CMAKE_CUDA_ARCHITECTURES; the last gives PTX for later cards")

set(TROUPE_HAS_CUDA OFF)
if(TROUPE_CUDA AND NOT TROUPE_SANITIZE)
  include(CheckLanguage)
  find_program(TROUPE_CUDA_HOST NAMES g++-12 g++)
  set(CMAKE_CUDA_HOST_COMPILER ${TROUPE_CUDA_HOST})
  # The default, overridden below for our own targets: the compiler test only wants something it knows.
  set(CMAKE_CUDA_ARCHITECTURES 80)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit 12.8)
    if(CUDAToolkit_FOUND AND TARGET CUDA::cublasLt)
      set(TROUPE_HAS_CUDA ON)
      # NCCL is loaded at run time; only its header is needed here.
      find_path(TROUPE_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
      # CMake 3.25 does not know how to ask nvcc for C++20.
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
  endif()
endif()
if(TROUPE_HAS_CUDA)
  message(STATUS "CUDA ${CUDAToolkit_VERSION}: building the GPU backend for ${TROUPE_CUDA_ARCHITECTURES}")
else()
  message(STATUS "no CUDA toolkit, or not asked for: the GPU backend is left out")
endif()

# kernels/gpu: one static library of all .cu files. No fast math: flushed subnormals and approximate division would break
# the equality with the CPU where it is promised (sampling); kernels ask for approximations by name.
function(troupe_gpu_kernels)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/gpu/*.cu)
  add_library(troupe_kernels_gpu STATIC ${sources})
  target_include_directories(troupe_kernels_gpu PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(troupe_kernels_gpu PUBLIC CUDA::cudart_static)
  set_target_properties(troupe_kernels_gpu PROPERTIES CUDA_ARCHITECTURES "${TROUPE_CUDA_ARCHITECTURES}" LINKER_LANGUAGE CXX
                        CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  target_compile_options(troupe_kernels_gpu PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -lineinfo -fmad=false>)
endfunction()
