# Compiler settings and third-party packages (all of them Debian's, by package name in tools/packages.txt).
option(TROUPE_TESTS "build the tests" ON)
option(TROUPE_PERF "build the benchmarks in perf/" OFF)
option(TROUPE_PORTABLE "programs for another Linux of the same glibc or newer: cmake/portable.cmake" OFF)
set(TROUPE_SANITIZE "" CACHE STRING "address | thread | empty")

add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wno-missing-field-initializers>")
# Bit-for-bit equality of the ISA tiers forbids the compiler to fuse on its own: kernels say fma where they mean it.
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 follows values through the standard library's and its own intrinsics' headers and sees what is not there, thousands of times.
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized;-Wno-uninitialized;-Wno-array-bounds;-Wno-restrict;-Wno-mismatched-new-delete>")
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-fcolor-diagnostics>")
  find_program(TROUPE_LLD ld.lld-19)
  if(TROUPE_LLD)
    add_link_options(-fuse-ld=lld-19)
  endif()
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1")

if(TROUPE_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(TROUPE_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  add_link_options(-fsanitize=thread)
endif()

if(TROUPE_PORTABLE)
  include(cmake/portable.cmake)
endif()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(simdjson REQUIRED)
find_package(CLI11 REQUIRED)
find_package(prometheus-cpp REQUIRED)
find_package(tomlplusplus REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(Boost 1.81 REQUIRED COMPONENTS unit_test_framework json)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

# Standalone Asio. Asio 1.22.1 does not recognise clang's coroutines by itself. Whether it finds std::aligned_alloc depends
# on a standard header being included before it; units that differ free memory with the wrong function, so it is said here.
add_library(troupe_asio INTERFACE)
target_compile_definitions(troupe_asio INTERFACE ASIO_STANDALONE ASIO_NO_DEPRECATED ASIO_HAS_CO_AWAIT=1 ASIO_HAS_STD_COROUTINE=1 ASIO_HAS_STD_ALIGNED_ALLOC=1)
target_link_libraries(troupe_asio INTERFACE Threads::Threads)
# Boost.Asio and Beast: the edge and include/troupe/boost_asio.hpp only.
add_library(troupe_boost_asio INTERFACE)
target_compile_definitions(troupe_boost_asio INTERFACE BOOST_ASIO_NO_DEPRECATED BOOST_ASIO_HAS_CO_AWAIT=1 BOOST_ASIO_HAS_STD_COROUTINE=1 BOOST_ASIO_HAS_STD_ALIGNED_ALLOC=1)
target_link_libraries(troupe_boost_asio INTERFACE Boost::headers Threads::Threads)

add_library(troupe_public INTERFACE)
target_include_directories(troupe_public INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include>)
