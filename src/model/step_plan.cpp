#include "src/model/step_plan.hpp"

#include <cstring>

namespace troupe::model {
namespace {

constexpr std::uint32_t magic = 0x50525054;  // "TPRP"
constexpr std::size_t alignment = 8;

enum section_index { sec_releases, sec_admits, sec_biases, sec_deltas, sec_forks, sec_rows, sec_tokens, n_sections };

struct section {
  std::uint32_t offset;
  std::uint32_t count;
};

struct plan_header {
  std::uint32_t magic;
  std::uint32_t bytes;
  std::uint64_t seq;
  plan_kind kind;
  graph_key graph;
  std::uint32_t n_tokens;
  std::uint32_t reserved;
  section sections[n_sections];
};
static_assert(std::is_trivially_copyable_v<plan_header> && sizeof(plan_header) % alignment == 0);
static_assert(std::is_trivially_copyable_v<slot_admit> && std::is_trivially_copyable_v<plan_row>);

constexpr std::size_t record_size[n_sections] = {sizeof(slot_id),    sizeof(slot_admit), sizeof(logit_bias_entry),
                                                 sizeof(page_delta), sizeof(page_fork),  sizeof(plan_row),
                                                 sizeof(token_id)};

const plan_header& header(std::span<const std::byte> bytes) {
  return *reinterpret_cast<const plan_header*>(bytes.data());
}

template <class T>
std::span<const T> records(std::span<const std::byte> bytes, section_index i) {
  const section& s = header(bytes).sections[i];
  return {reinterpret_cast<const T*>(bytes.data() + s.offset), s.count};
}

bool range_fits(std::uint32_t offset, std::uint32_t count, std::size_t size) {
  return std::uint64_t{offset} + count <= size;
}

failure malformed(const char* what) { return {errc::invalid_argument, std::string("step plan: ") + what}; }

}  // namespace

result<step_plan_view> step_plan_view::parse(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(plan_header)) return malformed("shorter than its header");
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignment) return malformed("not aligned to 8 bytes");
  const plan_header& h = header(bytes);
  if (h.magic != magic) return malformed("wrong magic number");
  if (h.bytes != bytes.size()) return malformed("length does not match its header");
  for (int i = 0; i < n_sections; ++i) {
    const section& s = h.sections[i];
    if (s.offset % 8 || s.offset < sizeof(plan_header) ||
        s.offset + std::uint64_t{s.count} * record_size[i] > bytes.size())
      return malformed("a section lies outside the plan");
  }
  step_plan_view view(bytes);
  for (const slot_admit& a : view.admits())
    if (!range_fits(a.history_offset, a.history_count, view.tokens().size()) ||
        !range_fits(a.bias_offset, a.bias_count, view.biases().size()))
      return malformed("an admission points outside the plan");
  std::uint64_t n = 0;
  for (const plan_row& r : view.rows()) {
    if (r.n_tokens == 0) return malformed("a row has no tokens");
    if (r.input == row_input::literal && !range_fits(r.token_offset, r.n_tokens, view.tokens().size()))
      return malformed("a row's tokens lie outside the plan");
    if (r.input == row_input::last_token && r.n_tokens != 1) return malformed("a row repeats the last token");
    n += r.n_tokens;
  }
  if (n != h.n_tokens) return malformed("token count does not match its rows");
  return view;
}

step_seq step_plan_view::seq() const { return header(bytes_).seq; }
plan_kind step_plan_view::kind() const { return header(bytes_).kind; }
graph_key step_plan_view::graph() const { return header(bytes_).graph; }
std::uint32_t step_plan_view::n_tokens() const { return header(bytes_).n_tokens; }
std::span<const slot_id> step_plan_view::releases() const { return records<slot_id>(bytes_, sec_releases); }
std::span<const slot_admit> step_plan_view::admits() const { return records<slot_admit>(bytes_, sec_admits); }
std::span<const logit_bias_entry> step_plan_view::biases() const { return records<logit_bias_entry>(bytes_, sec_biases); }
std::span<const page_delta> step_plan_view::deltas() const { return records<page_delta>(bytes_, sec_deltas); }
std::span<const page_fork> step_plan_view::forks() const { return records<page_fork>(bytes_, sec_forks); }
std::span<const plan_row> step_plan_view::rows() const { return records<plan_row>(bytes_, sec_rows); }
std::span<const token_id> step_plan_view::tokens() const { return records<token_id>(bytes_, sec_tokens); }

slot_admit& plan_builder::admit(slot_id slot, const sampling_params& p, std::uint64_t seed) {
  slot_admit a{};
  a.slot = slot;
  a.seed = seed;
  a.choice = p.choice;
  a.top_k = p.top_k;
  a.temperature = p.temperature;
  a.top_p = p.top_p;
  a.min_p = p.min_p;
  a.repetition_penalty = p.repetition_penalty;
  a.frequency_penalty = p.frequency_penalty;
  a.presence_penalty = p.presence_penalty;
  a.adapter = -1;
  a.bias_offset = static_cast<std::uint32_t>(biases.size());
  a.bias_count = static_cast<std::uint32_t>(p.logit_bias.size());
  for (auto [token, addend] : p.logit_bias) biases.push_back({token, addend});
  return admits.emplace_back(a);
}

void plan_builder::clear() {
  releases.clear();
  admits.clear();
  biases.clear();
  deltas.clear();
  forks.clear();
  rows.clear();
  tokens.clear();
  graph = {};
}

std::shared_ptr<const step_plan> plan_builder::build(step_seq seq, plan_kind kind) const {
  plan_header h{};
  h.magic = magic;
  h.seq = seq;
  h.kind = kind;
  h.graph = graph;
  for (const plan_row& r : rows) h.n_tokens += r.n_tokens;

  const void* data[n_sections] = {releases.data(), admits.data(), biases.data(), deltas.data(),
                                  forks.data(),    rows.data(),   tokens.data()};
  const std::size_t counts[n_sections] = {releases.size(), admits.size(), biases.size(), deltas.size(),
                                          forks.size(),    rows.size(),   tokens.size()};
  std::size_t end = sizeof(plan_header);
  for (int i = 0; i < n_sections; ++i) {
    h.sections[i] = {static_cast<std::uint32_t>(end), static_cast<std::uint32_t>(counts[i])};
    end = (end + counts[i] * record_size[i] + alignment - 1) / alignment * alignment;
  }
  h.bytes = static_cast<std::uint32_t>(end);
  std::vector<std::byte> bytes(end);
  std::memcpy(bytes.data(), &h, sizeof h);
  for (int i = 0; i < n_sections; ++i)
    if (counts[i]) std::memcpy(bytes.data() + h.sections[i].offset, data[i], counts[i] * record_size[i]);
  return std::make_shared<const step_plan>(std::move(bytes));
}

}  // namespace troupe::model
