#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>
#include <map>

#include "src/cpu/cpu_backend.hpp"
#include "src/format/gguf.hpp"
#include "src/model/locate.hpp"
#include "src/model/open_model.hpp"
#include "tools/cli.hpp"

namespace troupe::cli {
namespace {

namespace json = boost::json;

constexpr std::size_t shown_elements = 8;  // of an array

struct arguments {
  std::string model, load_format = "auto";
  bool json = false;
};

json::value value_of(const format::gguf_file& file, const format::gguf_entry& e) {
  using enum format::gguf_type;
  const auto first = [](auto&& list) {
    json::array out;
    for (std::size_t i = 0; i < list.size() && i < shown_elements; ++i) out.push_back(json::value(list[i]));
    return out;
  };
  switch (e.type) {
    case f32: case f64: return file.get_f64(e.key).value();
    case boolean: return file.get_bool(e.key).value();
    case string: return json::string(file.get_string(e.key).value());
    case u64: return file.get_u64(e.key).value();
    case array: {
      json::object o;
      o["array"] = json::string(name(e.element));
      o["count"] = e.count;
      if (e.element == string) o["first"] = first(file.get_strings(e.key).value());
      else if (e.element == f32 || e.element == f64) o["first"] = first(file.get_f32s(e.key).value());
      else if (e.element != boolean && e.element != array)
        if (auto list = file.get_u64s(e.key)) o["first"] = first(*list);
      return o;
    }
    default: return file.get_i64(e.key).value();
  }
}

json::object shape_of(const model::model_config& c) {
  json::object out{{"layers", c.n_layers}, {"hidden", c.hidden},     {"heads", c.n_heads}, {"kv_heads", c.n_kv_heads},
          {"head_dim", c.head_dim}, {"ffn", c.ffn},         {"vocab", c.vocab},   {"context", c.context},
          {"rope_theta", c.rope.theta}, {"tied_embedding", c.tied_embedding}};
  if (c.n_experts) out["experts"] = c.n_experts, out["experts_used"] = c.n_experts_used;
  return out;
}

json::object describe(const arguments& a) {
  const bool dummy = a.load_format == "dummy";
  const auto opened = dummy ? model::open_dummy_model(a.model).value() : model::open_model(model::locate_model(a.model).value()).value();
  const std::string& path = opened->path;
  json::object out;
  out["path"] = path;
  if (dummy) {
    out["format"] = "random weights";
  } else if (!std::filesystem::is_directory(path)) {
    auto file = format::gguf_file::open(path).value();
    out["format"] = "GGUF v" + std::to_string(file.version());
    json::object metadata;
    for (const auto& e : file.entries()) metadata[e.key] = value_of(file, e);
    out["metadata"] = std::move(metadata);
  } else {
    out["format"] = "safetensors";
  }
  out["architecture"] = opened->config.architecture;
  out["shape"] = shape_of(opened->config);

  json::array tensors;
  std::map<std::string, std::uint64_t> by_type;
  std::uint64_t parameters = 0, bytes = 0;
  for (const auto& t : opened->weights.source().tensors()) {
    const std::string type(kernels::name(t.type));
    json::array dims;
    for (std::uint64_t d : t.shape) dims.push_back(d);
    tensors.push_back({{"name", t.name}, {"type", type}, {"shape", std::move(dims)}, {"bytes", t.data.size()}});
    by_type[type] += t.data.size();
    parameters += t.shape.elements();
    bytes += t.data.size();
  }
  out["tensors"] = std::move(tensors);
  out["bytes_by_type"] = json::value_from(by_type);
  out["parameters"] = parameters;
  out["bytes"] = bytes;

  const auto plan = cpu::plan_memory(*opened, {}).value();
  out["memory_plan"] = {{"weights", plan.weights}, {"kv_cache", plan.kv}, {"activations", plan.activations},
                        {"slots", plan.slots},     {"total", plan.total()}, {"page", plan.page_bytes}};
  out["memory_plan_text"] = plan.describe();
  return out;
}

void print(const json::object& o) {
  const auto text = [](const json::value& v) { return v.is_string() ? std::string(v.as_string()) : json::serialize(v); };
  std::printf("%s\n%s, architecture %s, %llu parameters, %.1f MB of weights\n\n", text(o.at("path")).c_str(), text(o.at("format")).c_str(),
              text(o.at("architecture")).c_str(), static_cast<unsigned long long>(o.at("parameters").to_number<std::uint64_t>()),
              o.at("bytes").to_number<double>() / 1e6);
  for (const auto& [key, value] : o.at("shape").as_object()) std::printf("  %-16.*s %s\n", int(key.size()), key.data(), text(value).c_str());
  if (const auto* metadata = o.if_contains("metadata")) {
    std::puts("\nmetadata");
    for (const auto& [key, value] : metadata->as_object()) {
      std::string line = text(value);
      for (char& c : line)
        if (c == '\n') c = ' ';
      if (line.size() > 100) {
        std::size_t end = 97;
        while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xc0) == 0x80) --end;  // between characters
        line = line.substr(0, end) + "...";
      }
      std::printf("  %-42.*s %s\n", int(key.size()), key.data(), line.c_str());
    }
  }
  std::puts("\ntensors");
  for (const auto& t : o.at("tensors").as_array())
    std::printf("  %-32s %-6s %-16s %12s bytes\n", text(t.at("name")).c_str(), text(t.at("type")).c_str(), text(t.at("shape")).c_str(), text(t.at("bytes")).c_str());
  std::puts("\nbytes by type");
  for (const auto& [key, value] : o.at("bytes_by_type").as_object()) std::printf("  %-8.*s %s\n", int(key.size()), key.data(), text(value).c_str());
  std::printf("\nmemory on this machine, default options: %s\n", text(o.at("memory_plan_text")).c_str());
}

int run(const arguments& a) {
  const json::object o = describe(a);
  if (a.json) std::puts(json::serialize(o).c_str());
  else print(o);
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, int& exit_code) {
  auto a = std::make_shared<arguments>();
  CLI::App* c = app.add_subcommand("inspect", "a model file's metadata and tensors, and the memory it takes here");
  c->add_option("model", a->model, "a .gguf file, a directory with safetensors, or a name in the model folder")->type_name("MODEL");
  add_load_format(*c, a->load_format);
  c->add_flag("--json", a->json, "one JSON object");
  c->callback([a, &exit_code] { exit_code = run(*a); });
}

}  // namespace troupe::cli
