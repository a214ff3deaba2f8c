#include "src/link/messages.hpp"

#include <charconv>
#include <variant>

namespace troupe::link {
namespace {

constexpr std::uint32_t magic = 0x4b4c5054;  // "TPLK" in little-endian; also tells the byte order

/// The engine's options that ranks must agree on, by name: one line here carries another.
struct option_entry {
  const char* name;
  std::variant<std::string engine_options::*, bool engine_options::*, std::uint32_t engine_options::*,
               std::uint64_t engine_options::*, double engine_options::*>
      field;
};
const option_entry option_table[] = {
    {"model", &engine_options::model},
    {"device", &engine_options::device},
    {"dtype", &engine_options::dtype},
    {"quantization", &engine_options::quantization},
    {"load_format", &engine_options::load_format},
    {"deterministic", &engine_options::deterministic},
    {"enforce_eager", &engine_options::enforce_eager},
    {"gpu_memory_utilization", &engine_options::gpu_memory_utilization},
    {"threads", &engine_options::threads},
    {"max_model_len", &engine_options::max_model_len},
    {"max_num_seqs", &engine_options::max_num_seqs},
    {"max_num_batched_tokens", &engine_options::max_num_batched_tokens},
    {"kv_cache_memory_bytes", &engine_options::kv_cache_memory_bytes},
    {"kv_cache_dtype", &engine_options::kv_cache_dtype},
    {"step_timeout", &engine_options::step_timeout},
    {"reference", &engine_options::reference},
};

std::string text_of(const std::string& value) { return value; }
std::string text_of(bool value) { return value ? "1" : "0"; }
std::string text_of(auto value) {
  char buffer[32];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

bool read_text(const std::string& text, std::string& value) {
  value = text;
  return true;
}
bool read_text(const std::string& text, bool& value) {
  value = text == "1";
  return value || text == "0";
}
bool read_text(const std::string& text, auto& value) {
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && at == end;
}

void put_options(byte_writer& w, const engine_options& options) {
  w.put(static_cast<std::uint32_t>(std::size(option_table)));
  for (const option_entry& e : option_table) {
    w.put(std::string_view(e.name));
    std::visit([&](auto field) { w.put(std::string_view(text_of(options.*field))); }, e.field);
  }
}

/// False: an option that this build does not know, or a value that is none.
bool take_options(byte_reader& r, engine_options& options) {
  for (std::uint32_t n = r.take_count(8); n > 0; --n) {
    const std::string name = r.take_text(limits::text_bytes), text = r.take_text(limits::text_bytes);
    bool known = false;
    for (const option_entry& e : option_table)
      if (name == e.name) known = std::visit([&](auto field) { return read_text(text, options.*field); }, e.field);
    if (!known) return false;
  }
  return r.good();
}

void put_numbers(byte_writer& w, const std::vector<std::uint32_t>& numbers) {
  w.put(static_cast<std::uint32_t>(numbers.size()));
  w.raw(std::as_bytes(std::span(numbers)));
}

std::vector<std::uint32_t> take_numbers(byte_reader& r, std::uint32_t limit) {
  const std::uint32_t n = r.take_count(sizeof(std::uint32_t));
  if (n > limit) r.fail();
  std::vector<std::uint32_t> numbers(r.good() ? n : 0);
  const auto bytes = r.raw(numbers.size() * sizeof(std::uint32_t));
  if (!bytes.empty()) std::memcpy(numbers.data(), bytes.data(), bytes.size());
  return numbers;
}

template <std::size_t N>
void take_array(byte_reader& r, std::array<std::byte, N>& out) {
  const auto bytes = r.raw(N);
  if (bytes.size() == N) std::memcpy(out.data(), bytes.data(), N);
}

/// Magic and protocol lead the first message of either side, in every version of the protocol.
std::uint32_t take_protocol(byte_reader& r) {
  if (r.take<std::uint32_t>() != magic) r.fail();
  return r.take<std::uint32_t>();
}

void take(byte_reader& r, challenge& m) {
  m.protocol = take_protocol(r);
  if (!r.good() || m.protocol != protocol_version) return;
  m.program = r.take_text(limits::text_bytes);
  take_array(r, m.fresh);
}

void take(byte_reader& r, greeting& m) {
  m.protocol = take_protocol(r);
  if (!r.good() || m.protocol != protocol_version) return;
  m.program = r.take_text(limits::text_bytes);
  m.rank = r.take<std::uint32_t>();
  take_array(r, m.fresh);
  take_array(r, m.proof);
}

void take(byte_reader& r, hello& m) {
  take_array(r, m.proof);
  m.rank = r.take<std::uint32_t>();
  m.size = r.take<std::uint32_t>();
  m.how = r.take<joining>();
  if (m.rank >= m.size || m.size > limits::ranks || m.how > joining::tcp) r.fail();
  if (!take_options(r, m.options)) r.fail();
  take_array(r, m.model);
  m.group_secret = r.take_text(limits::text_bytes);
}

void take(byte_reader& r, refused& m) { m.text = r.take_text(limits::text_bytes); }
void take(byte_reader& r, failed& m) { m.text = r.take_text(limits::text_bytes); }

void take(byte_reader& r, offer& m) {
  m.n_pages = take_numbers(r, limits::kv_groups);
  m.group_port = r.take<std::uint16_t>();
}

void take(byte_reader& r, go& m) {
  m.n_pages = take_numbers(r, limits::kv_groups);
  std::uint32_t n = r.take_count(sizeof(std::uint32_t));
  if (n > limits::ranks) r.fail();
  for (; n > 0 && r.good(); --n) m.addresses.push_back(r.take_text(limits::text_bytes));
}

void take(byte_reader& r, ready& m) {
  model::rank_shape& s = m.shape;
  s.vocab = r.take<std::uint32_t>();
  s.max_model_len = r.take<std::uint32_t>();
  s.max_slots = r.take<std::uint32_t>();
  s.max_batched_tokens = r.take<std::uint32_t>();
  s.depth = r.take<std::uint32_t>();
  if (s.depth == 0 || s.depth > limits::depth) r.fail();
  std::uint32_t n = r.take_count(16);
  if (n > limits::kv_groups) r.fail();
  for (; n > 0 && r.good(); --n) {
    model::kv_group& g = s.groups.emplace_back();
    g.window = r.take<std::uint32_t>();
    g.n_layers = r.take<std::uint32_t>();
    g.page_bytes = r.take<std::uint64_t>();
  }
  s.n_pages = take_numbers(r, limits::kv_groups);
  if (s.n_pages.size() != s.groups.size()) r.fail();
  s.graph_sizes = take_numbers(r, limits::graph_sizes);
  m.device = r.take_text(limits::text_bytes);
  m.arithmetic = r.take_text(limits::text_bytes);
  m.threads = r.take<std::uint32_t>();
}

// A field more in step_done or row_result must be carried, too.
static_assert(sizeof(model::row_result) == 16 &&
              sizeof(model::step_done) == 24 + sizeof(std::vector<model::row_result>));
static_assert(std::is_trivially_copyable_v<model::row_result>);

void take(byte_reader& r, model::step_done& m) {
  m.seq = r.take<step_seq>();
  m.device_ns = r.take<std::uint64_t>();
  m.launch_ns = r.take<std::uint64_t>();
  m.rows.resize(r.take_count(sizeof(model::row_result)));
  const auto bytes = r.raw(m.rows.size() * sizeof(model::row_result));
  if (!bytes.empty()) std::memcpy(m.rows.data(), bytes.data(), bytes.size());
}

/// The most of a text that the other side takes.
std::string_view bounded(const std::string& text) { return std::string_view(text).substr(0, limits::text_bytes); }

digest proof(std::string_view secret, std::string_view who, const nonce& a, const nonce& b, std::uint32_t rank) {
  return hmac_sha256(secret, byte_writer().put(who).raw(a).raw(b).put(rank).bytes());
}

}  // namespace

std::vector<std::byte> encode(const challenge& m) {
  return byte_writer().put(magic).put(m.protocol).put(bounded(m.program)).raw(m.fresh).take();
}

std::vector<std::byte> encode(const greeting& m) {
  return byte_writer().put(magic).put(m.protocol).put(bounded(m.program)).put(m.rank).raw(m.fresh).raw(m.proof).take();
}

std::vector<std::byte> encode(const hello& m) {
  byte_writer w;
  w.raw(m.proof).put(m.rank).put(m.size).put(m.how);
  put_options(w, m.options);
  return w.raw(m.model).put(bounded(m.group_secret)).take();
}

std::vector<std::byte> encode(const refused& m) { return byte_writer().put(bounded(m.text)).take(); }
std::vector<std::byte> encode(const failed& m) { return byte_writer().put(bounded(m.text)).take(); }

std::vector<std::byte> encode(const offer& m) {
  byte_writer w;
  put_numbers(w, m.n_pages);
  return w.put(m.group_port).take();
}

std::vector<std::byte> encode(const go& m) {
  byte_writer w;
  put_numbers(w, m.n_pages);
  w.put(static_cast<std::uint32_t>(m.addresses.size()));
  for (const std::string& a : m.addresses) w.put(bounded(a));
  return w.take();
}

std::vector<std::byte> encode(const ready& m) {
  const model::rank_shape& s = m.shape;
  byte_writer w;
  w.put(s.vocab).put(s.max_model_len).put(s.max_slots).put(s.max_batched_tokens).put(s.depth);
  w.put(static_cast<std::uint32_t>(s.groups.size()));
  for (const model::kv_group& g : s.groups) w.put(g.window).put(g.n_layers).put(g.page_bytes);
  put_numbers(w, s.n_pages);
  put_numbers(w, s.graph_sizes);
  w.put(bounded(m.device)).put(bounded(m.arithmetic)).put(m.threads);
  return w.take();
}

std::vector<std::byte> encode(const model::step_done& m) {
  byte_writer w;
  w.put(m.seq).put(m.device_ns).put(m.launch_ns).put(static_cast<std::uint32_t>(m.rows.size()));
  return w.raw(std::as_bytes(std::span(m.rows))).take();
}

template <class T>
result<T> decode(std::span<const std::byte> bytes) {
  byte_reader r(bytes);
  T message;
  take(r, message);
  if constexpr (requires { message.protocol; })
    if (r.good() && message.protocol != protocol_version) return message;
  if (!r.at_end()) return failure(errc::invalid_argument, "a message of the link is malformed");
  return message;
}
template result<challenge> decode(std::span<const std::byte>);
template result<greeting> decode(std::span<const std::byte>);
template result<hello> decode(std::span<const std::byte>);
template result<refused> decode(std::span<const std::byte>);
template result<offer> decode(std::span<const std::byte>);
template result<go> decode(std::span<const std::byte>);
template result<ready> decode(std::span<const std::byte>);
template result<model::step_done> decode(std::span<const std::byte>);
template result<failed> decode(std::span<const std::byte>);

digest proof_of_rank(std::string_view secret, const nonce& of_rank0, const nonce& of_rank, std::uint32_t rank) {
  return proof(secret, "rank", of_rank0, of_rank, rank);
}
digest proof_of_rank0(std::string_view secret, const nonce& of_rank0, const nonce& of_rank) {
  return proof(secret, "rank 0", of_rank0, of_rank, 0);
}

result<address> parse_address(std::string_view text) {
  const failure wrong(errc::invalid_argument, "'" + std::string(text) + "' is no address: use HOST:PORT");
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0 || text.size() > 300) return wrong;
  address out;
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.starts_with('[') && host.ends_with(']') && host.size() > 2;
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (host.find_first_of("[] ") != std::string_view::npos || (!bracketed && host.find(':') != std::string_view::npos))
    return wrong;
  out.host = host;
  const std::string port(text.substr(colon + 1));
  if (!read_text(port, out.port)) return wrong;
  return out;
}

std::string to_string(const address& a) {
  const bool v6 = a.host.find(':') != std::string::npos;
  return (v6 ? "[" + a.host + "]" : a.host) + ":" + std::to_string(a.port);
}

}  // namespace troupe::link
