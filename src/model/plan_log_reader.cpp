#include <algorithm>
#include <charconv>
#include <deque>
#include <map>
#include <utility>

#include "src/model/plan_log.hpp"
#include "src/model/plan_log_format.hpp"

namespace troupe::model {
namespace {

constexpr std::uint32_t no_row = 0xffffffffu;

/// Only what the writer writes: every key once, whole numbers.
class header_text {
 public:
  explicit header_text(std::string_view text) {
    while (!text.empty()) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      const std::string_view line = text.substr(0, end);
      const std::size_t equals = line.find('=');
      if (equals == line.npos || !values_.emplace(line.substr(0, equals), line.substr(equals + 1)).second)
        good_ = false;
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }
  void read(const char* key, std::string& to) {
    const auto it = values_.find(key);
    if (it == values_.end())
      good_ = false;
    else
      to = it->second;
  }
  template <class Number>
  void read(const char* key, Number& to) {
    std::string text;
    read(key, text);
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), to);
    if (code != std::errc() || end != text.data() + text.size()) good_ = false;
  }
  void read(const char* key, bool& to) {
    std::uint32_t n = 2;
    read(key, n);
    if (n > 1) good_ = false;
    to = n == 1;
  }
  bool good() const { return good_; }

 private:
  std::map<std::string, std::string, std::less<>> values_;
  bool good_ = true;
};

bool parse(std::string_view text, plan_log_header& h) {
  header_text t(text);
  t.read("model", h.model);
  t.read("load_format", h.load_format);
  t.read("fingerprint", h.fingerprint);
  t.read("device", h.device);
  t.read("dtype", h.dtype);
  t.read("quantization", h.quantization);
  t.read("kv_cache_dtype", h.kv_cache_dtype);
  t.read("deterministic", h.deterministic);
  t.read("enforce_eager", h.enforce_eager);
  t.read("reference", h.reference);
  t.read("max_model_len", h.max_model_len);
  t.read("max_num_seqs", h.max_num_seqs);
  t.read("max_num_batched_tokens", h.max_num_batched_tokens);
  t.read("n_pages", h.n_pages);
  return t.good() && h.max_model_len && h.max_num_seqs && h.max_num_batched_tokens && h.n_pages;
}

void compare(const step_done& logged, const step_done& now, replay_report& report) {
  ++report.steps;
  for (std::size_t i = 0; i < std::max(logged.rows.size(), now.rows.size()); ++i) {
    const row_result none{no_row, -1, 0, 0};
    const row_result& a = i < logged.rows.size() ? logged.rows[i] : none;
    const row_result& b = i < now.rows.size() ? now.rows[i] : none;
    report.tokens += a.slot != no_row && a.token >= 0;
    if (a.slot == b.slot && a.flags == b.flags && (a.flags || a.token == b.token)) continue;
    if (report.differences++ == 0) report.step = logged.seq, report.logged = a, report.now = b;
  }
}

}  // namespace

std::uint64_t fingerprint(const model& m) {
  constexpr std::size_t looked_at = 256;  // bytes of each tensor
  std::uint64_t h = fnv_start;
  const auto add = [&h](const auto& x) { h = fnv1a(std::as_bytes(std::span(&x, 1)), h); };
  const auto add_text = [&](std::string_view s) { h = fnv1a(std::as_bytes(std::span(s)), h), add(s.size()); };
  const model_config& c = m.config;
  add_text(c.architecture);
  for (std::uint32_t n :
       {c.n_layers, c.hidden, c.n_heads, c.n_kv_heads, c.head_dim, c.ffn, c.vocab, c.context, c.window, c.rope.dim})
    add(n);
  add(c.rms_eps);
  add(c.rope.theta);
  for (const format::tensor_view& t : m.weights.source().tensors()) {
    add_text(t.name);
    add(t.type);
    add(std::uint64_t{t.shape.elements()});
    h = fnv1a(t.data.first(std::min(t.data.size(), looked_at)), h);
  }
  return h;
}

failure plan_log_reader::wrong(const std::string& what) const {
  return {errc::invalid_file, path_ + ": is no plan log that can be read: " + what};
}

result<plan_log_reader> plan_log_reader::open(const std::string& path) {
  plan_log_reader r(path);
  r.file_.open(path, std::ios::binary | std::ios::ate);
  if (!r.file_) return failure(errc::not_found, path + ": cannot be opened: check the path");
  const std::streamoff size = r.file_.tellg();
  if (size < 0) return r.wrong("it has no size");
  r.left_ = static_cast<std::uint64_t>(size);
  r.file_.seekg(0);
  std::array<char, 8> magic{};
  if (r.left_ < magic.size() || !r.file_.read(magic.data(), magic.size()) ||
      !std::equal(magic.begin(), magic.end() - 2, plan_log_magic.begin()))
    return r.wrong("it does not begin like one");
  if (magic != plan_log_magic) return r.wrong("it is of another version: replay it with the program that wrote it");
  r.left_ -= magic.size();
  std::uint32_t kind = 0;
  std::vector<std::byte> payload;
  auto taken = r.take(kind, payload);
  if (!taken) return taken.take_error();
  if (!*taken || kind != static_cast<std::uint32_t>(log_record::header) || payload.size() > max_log_header_bytes ||
      !parse({reinterpret_cast<const char*>(payload.data()), payload.size()}, r.header_))
    return r.wrong("its header says too little");
  return r;
}

/// False: the end, or a record that does not end.
result<bool> plan_log_reader::take(std::uint32_t& kind, std::vector<std::byte>& payload) {
  record_header h;
  if (left_ < sizeof h) {
    cut_off_ = left_ > 0;
    return false;
  }
  if (!file_.read(reinterpret_cast<char*>(&h), sizeof h)) return wrong("reading it failed");
  left_ -= sizeof h;
  if (h.own_check != fnv1a(std::as_bytes(std::span(&h, 1)).first(16)))
    return wrong("a record after plan " + std::to_string(last_plan_) + " is damaged");
  if (h.bytes > left_) {  // which also bounds what is taken of memory
    cut_off_ = true;
    left_ = 0;
    return false;
  }
  payload.resize(h.bytes);
  if (!file_.read(reinterpret_cast<char*>(payload.data()), h.bytes)) return wrong("reading it failed");
  left_ -= h.bytes;
  if (h.payload_check != fnv1a(payload))
    return wrong("a record after plan " + std::to_string(last_plan_) + " is damaged");
  kind = h.kind;
  return true;
}

result<std::optional<plan_log_reader::record>> plan_log_reader::next() {
  std::uint32_t kind = 0;
  std::vector<std::byte> payload;
  auto taken = take(kind, payload);
  if (!taken) return taken.take_error();
  if (!*taken) return std::optional<record>();
  record r;
  if (kind == static_cast<std::uint32_t>(log_record::plan)) {
    auto view = step_plan_view::parse(payload);
    if (!view) return wrong(view.error().message);
    if (view->seq() != last_plan_ + 1)
      return wrong("plan " + std::to_string(view->seq()) + " comes after plan " + std::to_string(last_plan_));
    ++last_plan_;
    r.plan = std::make_shared<const step_plan>(std::move(payload));
    return std::optional(std::move(r));
  }
  if (kind != static_cast<std::uint32_t>(log_record::done)) return wrong("a record of an unknown kind");
  done_header h;
  if (payload.size() < sizeof h || (payload.size() - sizeof h) % sizeof(row_result) != 0)
    return wrong("an answer of a wrong length");
  std::memcpy(&h, payload.data(), sizeof h);
  if (h.seq != last_done_ + 1 || h.seq > last_plan_)
    return wrong("answer " + std::to_string(h.seq) + " is out of turn");
  ++last_done_;
  r.done.seq = h.seq;
  r.done.device_ns = h.device_ns;
  r.done.launch_ns = h.launch_ns;
  r.done.rows.resize((payload.size() - sizeof h) / sizeof(row_result));
  if (!r.done.rows.empty())
    std::memcpy(static_cast<void*>(r.done.rows.data()), payload.data() + sizeof h, payload.size() - sizeof h);
  return std::optional(std::move(r));
}

result<replay_report> replay(plan_log_reader& log, backend& b) {
  replay_report report;
  std::deque<step_done> logged, now;  // answers that the other side does not have yet
  std::uint32_t in_flight = 0;
  const auto finish_one = [&]() -> result<void> {
    step_done done;
    for (;;) {
      auto finished = b.poll(done);
      if (!finished) return finished.take_error();
      if (*finished) break;
    }
    --in_flight;
    now.push_back(std::move(done));
    return {};
  };
  for (;;) {
    auto r = log.next();
    if (!r) return r.take_error();
    if (!*r) {
      while (in_flight > 0)
        if (auto ok = finish_one(); !ok) return ok.take_error();
    } else if ((*r)->plan) {
      if (in_flight == b.shape().depth)
        if (auto ok = finish_one(); !ok) return ok.take_error();
      if (auto ok = b.launch(std::move((*r)->plan)); !ok) {
        failure f = ok.take_error();
        if (f.code == errc::invalid_argument) f.code = errc::invalid_file;
        return f;
      }
      ++in_flight;
    } else {
      logged.push_back(std::move((*r)->done));
    }
    for (; !logged.empty() && !now.empty(); logged.pop_front(), now.pop_front())
      compare(logged.front(), now.front(), report);
    if (!*r) return report;
  }
}

}  // namespace troupe::model
