# What is built out of the modules: the shared libraries that others link, the program, the examples, the install tree.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# A shared library of a static module: everything stays inside but what carries TROUPE_API.
function(troupe_shared target module export_name)
  add_library(${target} SHARED ${CMAKE_SOURCE_DIR}/cmake/empty.cpp)
  target_link_libraries(${target} PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,troupe_${module}> ${ARGN})
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_link_options(${target} PRIVATE -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/exports.map -Wl,--no-undefined)
  if(TROUPE_SANITIZE)
    target_link_options(${target} PRIVATE -Wl,-z,undefs -shared-libsan)
  endif()
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${export_name} VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
                        LINK_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/exports.map)
  add_library(troupe::${export_name} ALIAS ${target})
endfunction()

# The sanitizers' runtimes want one copy in the program, so sanitized builds leave the shared libraries out; portable ones
# have no use for them, and Debian's archives are not made for them.
if(NOT TROUPE_SANITIZE AND NOT TROUPE_PORTABLE)
  troupe_shared(libtroupe engine engine)
  set_target_properties(libtroupe PROPERTIES OUTPUT_NAME troupe)
endif()

add_executable(troupe_program
  tools/main.cpp tools/cli.cpp tools/blocking_client.cpp tools/npy.cpp tools/serve.cpp tools/serve_config.cpp tools/chat.cpp tools/generate.cpp
  tools/bench.cpp tools/tokenize.cpp tools/detokenize.cpp tools/template.cpp tools/logits.cpp tools/inspect.cpp tools/doctor.cpp tools/rank.cpp tools/replay.cpp)
set_target_properties(troupe_program PROPERTIES OUTPUT_NAME troupe)
target_compile_definitions(troupe_program PRIVATE TROUPE_VERSION="${PROJECT_VERSION}")
target_link_libraries(troupe_program PRIVATE troupe_engine troupe_edge CLI11::CLI11 tomlplusplus::tomlplusplus Boost::json)
troupe_precompile(troupe_program <CLI/CLI.hpp>)                      # seconds of compiling in every command
if(TROUPE_SANITIZE OR CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # A file that includes CLI11 takes a sanitizing clang 23 s with -O2 and 9 s without, and these builds only test.
  target_compile_options(troupe_program PRIVATE -O0)
endif()

# The embedding examples, against the shared library as a stranger would use it.
if(TARGET libtroupe)
  add_executable(asio_service examples/asio_service/main.cpp)
  target_link_libraries(asio_service PRIVATE troupe::engine troupe_asio)
  add_executable(boost_service examples/boost_service/main.cpp)
  target_link_libraries(boost_service PRIVATE troupe::engine troupe_boost_asio)

  install(TARGETS libtroupe EXPORT troupe_targets)
  install(TARGETS troupe_program)
  install(DIRECTORY include/troupe DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT troupe_targets NAMESPACE troupe:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/troupe)
  configure_package_config_file(cmake/troupeConfig.cmake.in ${CMAKE_BINARY_DIR}/troupeConfig.cmake
                                INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/troupe)
  write_basic_package_version_file(${CMAKE_BINARY_DIR}/troupeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${CMAKE_BINARY_DIR}/troupeConfig.cmake ${CMAKE_BINARY_DIR}/troupeConfigVersion.cmake
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/troupe)
endif()
