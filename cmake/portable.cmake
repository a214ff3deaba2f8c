# TROUPE_PORTABLE (preset "portable"): programs that run on another Linux of the same glibc or a newer one. What Debian has as
# an archive is linked in; of fmt, spdlog, simdjson, prometheus-cpp and benchmark it has shared libraries only, so these and the
# C++ runtime, of which there must be one copy, go into lib/ beside the programs. The code is the release preset's, flag for flag.
#
#     cmake --preset portable && ninja -C build/portable portable
#     cmake --install build/portable --component portable --strip --prefix FOLDER
#     tar -C FOLDER -c . | xz --lzma2=preset=6,dict=512MiB > troupe.tar.xz       # a large window: the programs hold the same kernels
#
# The tests among them look for their data in tests/data of the folder in which they are started.
set(CMAKE_FIND_LIBRARY_SUFFIXES .a .so)
set(Boost_USE_STATIC_LIBS ON)
set(OPENSSL_USE_STATIC_LIBS ON)
set(CMAKE_INSTALL_RPATH "$ORIGIN/lib")
add_link_options(-Wl,--disable-new-dtags)                 # RPATH, which also serves what the libraries need of each other

# troupe_portable(TARGET ...): the programs of component "portable", with what they need but glibc. Once, as the last thing.
function(troupe_portable)
  add_custom_target(portable DEPENDS ${ARGN})
  install(TARGETS ${ARGN} RUNTIME_DEPENDENCIES PRE_EXCLUDE_REGEXES "^(ld-linux-x86-64|lib(c|m|dl|rt|pthread))\\.so"
          RUNTIME DESTINATION . COMPONENT portable
          LIBRARY DESTINATION lib COMPONENT portable)
endfunction()
