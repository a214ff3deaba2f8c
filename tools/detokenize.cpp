#include <boost/json.hpp>
#include <cstdio>

#include "src/model/locate.hpp"
#include "src/text/detokenizer.hpp"
#include "src/text/open_tokenizer.hpp"
#include "tools/cli.hpp"

namespace troupe::cli {
namespace {

struct arguments {
  std::string model, file;
  bool skip_special = false, stream = false;
};

/// A JSON string in ASCII: other characters as \uXXXX, pairs of them beyond the basic plane.
std::string ascii_json(const std::string& utf8) {
  std::string out;
  const std::string quoted = boost::json::serialize(boost::json::value(utf8));
  for (std::size_t i = 0; i < quoted.size();) {
    const auto lead = static_cast<unsigned char>(quoted[i]);
    if (lead < 0x80) {
      out += quoted[i++];
      continue;
    }
    const int n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    std::uint32_t code = lead & (0xff >> (n + 1));
    for (int k = 1; k < n; ++k) code = code << 6 | (static_cast<unsigned char>(quoted[i + k]) & 0x3f);
    i += n;
    char unit[16];
    if (code < 0x10000) {
      std::snprintf(unit, sizeof unit, "\\u%04x", code);
    } else {
      code -= 0x10000;
      std::snprintf(unit, sizeof unit, "\\u%04x\\u%04x", 0xd800 + (code >> 10), 0xdc00 + (code & 0x3ff));
    }
    out += unit;
  }
  return out;
}

int run(const arguments& a) {
  const auto ids = parse_tokens(read_input(a.file), a.file.empty() ? "stdin" : a.file);
  const auto opened = text::open_tokenizer(model::locate_model(a.model).value()).value();
  const auto& tokenizer = *opened.tokens;
  for (std::int32_t id : ids)
    if (static_cast<std::size_t>(id) >= tokenizer.size())
      throw error(errc::invalid_argument, "token id " + std::to_string(id) + " is outside the vocabulary of " +
                                              std::to_string(tokenizer.size()));
  text::detokenizer decoder(tokenizer, {.skip_special = a.skip_special});
  std::string out;
  if (!a.stream) {
    for (std::int32_t id : ids) decoder.append(id, out);
    decoder.finish(out);
    std::fwrite(out.data(), 1, out.size(), stdout);
    return 0;
  }
  for (std::int32_t id : ids) std::puts(ascii_json(decoder.append(id)).c_str());
  return 0;
}

}  // namespace

void add_detokenize(CLI::App& app, int& exit_code) {
  auto a = std::make_shared<arguments>();
  CLI::App* c = app.add_subcommand("detokenize", "token ids to text");
  c->add_option("model", a->model, "a model with a tokenizer")->type_name("MODEL");
  c->add_option("--tokens,--file", a->file, "a file with ids (default: stdin)");
  c->add_flag("--skip-special", a->skip_special, "leave control tokens out");
  c->add_flag("--stream", a->stream, "one JSON string per token and line, as a stream would show them");
  c->callback([a, &exit_code] { exit_code = run(*a); });
}

}  // namespace troupe::cli
