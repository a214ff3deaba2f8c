#include "src/model/config.hpp"

#include <cmath>
#include <fstream>

#include "src/model/read_config.hpp"

namespace troupe::model {
namespace {

failure bad(const std::string& origin, const std::string& what) {
  return {errc::invalid_file, origin + ": " + what + ": the file is damaged or not a model that runs here"};
}

bool in_range(double x, double low, double high) { return std::isfinite(x) && x >= low && x <= high; }

}  // namespace

result<std::string> read_config_file(const std::filesystem::path& path) {
  constexpr std::uintmax_t most_bytes = 4u << 20;
  std::error_code ec;
  const auto size = std::filesystem::file_size(path, ec);
  if (ec) return failure(errc::not_found, path.string() + ": no such file: a model folder holds config.json and *.safetensors");
  if (size > most_bytes)
    return failure(errc::invalid_file, path.string() + ": larger than 4 MiB: not a model's configuration");
  std::string text(static_cast<std::size_t>(size), '\0');
  std::ifstream in(path, std::ios::binary);
  if (!in.read(text.data(), static_cast<std::streamsize>(text.size())))
    return failure(errc::io_failed, path.string() + ": cannot be read: check its permissions");
  return text;
}

std::optional<std::int32_t> recommended_top_k(float k) {
  if (!(k >= -1 && k < 1e9f) || k != std::floor(k)) return std::nullopt;
  return static_cast<std::int32_t>(k);
}

result<void> check(const model_config& c, const std::string& origin) {
  struct bound {
    const char* what;
    std::uint32_t value, low, high;
  };
  const bound bounds[] = {
      {"number of layers", c.n_layers, 1, limits::layers},
      {"hidden size", c.hidden, 1, limits::hidden},
      {"number of heads", c.n_heads, 1, limits::heads},
      {"number of key/value heads", c.n_kv_heads, 1, limits::heads},
      {"head size", c.head_dim, 8, limits::head_dim},
      {"feed-forward size", c.ffn, 1, limits::ffn},
      {"vocabulary size", c.vocab, 1, limits::vocab},
      {"context length", c.context, 1, limits::context},
      {"rotary size", c.rope.dim, 2, c.head_dim},
  };
  for (const bound& b : bounds)
    if (b.value < b.low || b.value > b.high)
      return bad(origin, std::string(b.what) + " is " + std::to_string(b.value) + ", outside " + std::to_string(b.low) +
                             " to " + std::to_string(b.high));
  if (c.n_experts > limits::experts || (c.n_experts && (c.n_experts_used == 0 || c.n_experts_used > c.n_experts)))
    return bad(origin, std::to_string(c.n_experts_used) + " experts a token of " + std::to_string(c.n_experts) +
                           " cannot be");
  if (c.n_heads % c.n_kv_heads) return bad(origin, "heads are not a multiple of key/value heads");
  if (c.head_dim % 8) return bad(origin, "head size " + std::to_string(c.head_dim) + " is not a multiple of 8");
  if (c.rope.dim % 2) return bad(origin, "rotary size is odd");
  if (c.q_size() > limits::ffn) return bad(origin, "heads times head size is too large");
  if (!in_range(c.rms_eps, 0.0, 1.0)) return bad(origin, "the norm's epsilon is not between 0 and 1");

  const rope_config& r = c.rope;
  if (!in_range(r.theta, 1.0 + 1e-9, 1e15)) return bad(origin, "the rope base is not above 1");
  if (!in_range(r.factor, 1e-6, 1e6)) return bad(origin, "the rope scaling factor is out of range");
  if (!in_range(r.attention_factor, 1e-6, 1e6)) return bad(origin, "the rope attention factor is out of range");
  if (r.scaling == rope_scaling::llama3 || r.scaling == rope_scaling::yarn)
    if (!in_range(r.original_context, 1, limits::context))
      return bad(origin, "the rope scaling's original context length is missing or out of range");
  if (r.scaling == rope_scaling::llama3 &&
      !(in_range(r.low_freq_factor, 1e-6, 1e6) && in_range(r.high_freq_factor, 1e-6, 1e6) &&
        r.high_freq_factor > r.low_freq_factor))
    return bad(origin, "the rope scaling's frequency factors are out of order");
  if (r.scaling == rope_scaling::yarn &&
      !(in_range(r.beta_fast, 1e-6, 1e6) && in_range(r.beta_slow, 1e-6, 1e6)))
    return bad(origin, "the rope scaling's beta_fast or beta_slow is out of range");
  for (token_id id : c.eos)
    if (id < 0 || static_cast<std::uint32_t>(id) >= c.vocab)
      return bad(origin, "the end-of-sequence id " + std::to_string(id) + " is outside the vocabulary");
  return {};
}

}  // namespace troupe::model
