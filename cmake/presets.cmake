# config/models/*.json become part of the program, so that it finds them wherever it is carried.
file(GLOB presets CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/config/models/*.json)
set(entries "")
foreach(preset ${presets})
  set_property(DIRECTORY ${CMAKE_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${preset})
  cmake_path(GET preset FILENAME name)
  string(REGEX REPLACE "\\.json$" "" name "${name}")
  file(READ ${preset} text)
  string(APPEND entries "    {\"${name}\", R\"preset(${text})preset\"},\n")
endforeach()
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/presets.cpp CONTENT
"// Made by cmake/presets.cmake from config/models.
#include \"src/model/presets.hpp\"

namespace troupe::model {
namespace {
constexpr preset all[] = {
@entries@};
}  // namespace

std::span<const preset> presets() noexcept { return all; }

}  // namespace troupe::model
" @ONLY)
target_sources(troupe_model PRIVATE ${CMAKE_BINARY_DIR}/generated/presets.cpp)
