#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>

#include "actors/front/engine_impl.hpp"
#include "actors/front/port.hpp"
#include "actors/front/validate.hpp"
#include "actors/rank/backends.hpp"
#include "src/base/log.hpp"
#include "src/model/fault.hpp"
#include "src/model/locate.hpp"
#include "src/model/plan_log.hpp"
#include "src/text/open_tokenizer.hpp"
#include "src/text/synthetic_tokenizer.hpp"

namespace troupe {
namespace {

std::string read_file(const std::string& path, std::size_t limit) {
  if (std::filesystem::is_directory(path)) throw error(errc::invalid_argument, path + ": is a directory: give a file");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw error(errc::not_found, path + ": cannot be opened: check the path");
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.size() > limit) throw error(errc::invalid_file, path + ": is larger than " + std::to_string(limit) + " bytes");
  return text;
}

/// `dummy`: the model of random weights that wants a tokenizer made up for it; null: the file at `path` has one.
text::text_model load_text(const engine_options& options, const std::string& path, const model::model_config* dummy) {
  text::text_model out;
  auto opened = dummy ? text::synthetic_tokenizer(dummy->vocab, dummy->eos) : text::open_tokenizer(path);
  if (!opened) {
    // Token ids still work, which is all that a folder without tokenizer files can offer.
    if (opened.error().code != errc::unsupported && opened.error().code != errc::not_found) (void)opened.value();
    out.why_no_tokenizer = opened.error().message;
  } else {
    out.tokenizer = opened->tokens;
    out.chat = opened->chat;
  }
  if (!options.chat_template.empty()) {
    out.chat = text::open_chat_template(read_file(options.chat_template, 1 << 20), out.tokenizer.get()).value();
  }
  return out;
}

/// What `troupe replay` needs to make the same rank again.
model::plan_log_header plan_log_header_of(const engine_options& o, const model::model& m, const model::rank_shape& s,
                                          const std::string& device) {
  model::plan_log_header h;
  h.model = m.path;
  h.load_format = o.load_format;
  h.fingerprint = model::fingerprint(m);
  h.device = device;
  h.dtype = o.dtype;
  h.quantization = o.quantization;
  h.kv_cache_dtype = o.kv_cache_dtype;
  h.deterministic = o.deterministic;
  h.enforce_eager = o.enforce_eager;
  h.reference = o.reference;
  h.max_model_len = s.max_model_len;
  h.max_num_seqs = s.max_slots;
  h.max_num_batched_tokens = s.max_batched_tokens;
  h.n_pages = s.n_pages.empty() ? 0 : s.n_pages.front();
  return h;
}

void check(const engine_options& o) {
  rank::check_device(o.device).value();
  if (o.load_format != "auto" && o.load_format != "dummy")
    throw error(errc::invalid_argument, "load_format '" + o.load_format + "' is neither auto nor dummy");
  if (!(o.gpu_memory_utilization > 0 && o.gpu_memory_utilization <= 1))
    throw error(errc::invalid_argument, "gpu_memory_utilization must be above 0 and at most 1");
  if (o.max_num_seqs == 0) throw error(errc::invalid_argument, "max_num_seqs must be at least 1");
  if (o.max_requests == 0) throw error(errc::invalid_argument, "max_requests must be at least 1");
  if (o.stream_buffer == 0) throw error(errc::invalid_argument, "stream_buffer must be at least 1");
  if (o.step_timeout == 0 || o.step_timeout > 86'400)
    throw error(errc::invalid_argument, "step_timeout must be from 1 to 86400 seconds");
  if (o.text_threads == 0 || o.text_threads > 64) throw error(errc::invalid_argument, "text_threads must be from 1 to 64");
  if (o.tensor_parallel_size == 0 || o.tensor_parallel_size > 256)
    throw error(errc::invalid_argument, "tensor_parallel_size must be from 1 to 256");
  if (o.rank_isolation != "thread" && o.rank_isolation != "process")
    throw error(errc::invalid_argument, "rank_isolation '" + o.rank_isolation + "': use thread or process");
  if (o.generation_config != "auto" && o.generation_config != "none")
    throw error(errc::invalid_argument, "generation_config '" + o.generation_config + "': use auto or none");
  if (o.rank_start_timeout == 0 || o.rank_start_timeout > 86'400)
    throw error(errc::invalid_argument, "rank_start_timeout must be from 1 to 86400 seconds");
  if (!o.rendezvous.empty() && o.tensor_parallel_size == 1)
    throw error(errc::invalid_argument, "rendezvous: there is one rank only, for which nobody has to come: give tensor_parallel_size");
  if (o.inject_fault.empty()) return;
  if (const model::fault f = model::parse_fault(o.inject_fault).value(); f.rank >= o.tensor_parallel_size)
    throw error(errc::invalid_argument, "inject_fault: there is no rank " + std::to_string(f.rank));
}

void check(const engine_options& o, const model::model_config& c) {
  if (const std::uint64_t most = model::longest_sequence(c); o.max_model_len > most)
    throw error(errc::invalid_argument, "max_model_len " + std::to_string(o.max_model_len) +
                                            " is more than the model's context of " + std::to_string(most) +
                                            " tokens: ask for shorter sequences");
}

/// What the model's files recommend; nothing, and a word in the log, where no request could ask for it.
sampling_choices recommended_sampling(const model::model& m) {
  sampling_params s;
  m.sampling.apply_to(s);
  auto valid = front::validate(s, m.config.vocab);
  if (valid) return m.sampling;
  log().warn("{}: the sampling that its files recommend is left aside: {}", m.path, valid.error().message);
  return {};
}

}  // namespace

engine::impl::impl(engine_options options)
    : options_(std::move(options)), sinks_(std::make_shared<front::sinks>()), permits_(options_.max_requests) {
  check(options_);
  load();
}

engine::impl::~impl() { shut(); }

void engine::impl::load() {
  const bool dummy = options_.load_format == "dummy";
  if (dummy) model_ = model::open_dummy_model(options_.model).value();
  info_.path = dummy ? model_->path : model::locate_model(options_.model).value();
  // The tokenizer's tables and the packed weights are the two long parts of a start, and independent.
  auto text = std::async(std::launch::async,
                         [this, config = dummy ? &model_->config : nullptr] { return load_text(options_, info_.path, config); });
  if (!dummy) model_ = model::open_model(info_.path).value();
  check(options_, model_->config);
  rank::made_ranks made = rank::make_ranks(options_, model_, sinks_).value();
  actor_parts parts;
  parts.ranks = std::move(made.group);
  if (!options_.plan_log.empty()) {
    auto& first = parts.ranks.ranks.front();
    const auto header = plan_log_header_of(options_, *model_, first->shape(), made.device);
    first = model::with_plan_log(std::move(first), options_.plan_log, header).value();
  }
  if (!options_.inject_fault.empty()) {
    log().warn("a fault is injected on purpose: {}", options_.inject_fault);
    const model::fault fault = model::parse_fault(options_.inject_fault).value();
    auto& backend = parts.ranks.ranks.at(fault.rank);
    backend = model::with_fault(std::move(backend), fault);
  }
  text_ = text.get();
  if (!text_.tokenizer) log().info("{}", text_.why_no_tokenizer);
  text_.vocab = model_->config.vocab;

  const model::rank_shape shape = parts.ranks.ranks.front()->shape();
  info_.max_model_len = shape.max_model_len;
  info_.max_num_seqs = shape.max_slots;
  info_.max_num_batched_tokens = shape.max_batched_tokens;
  info_.n_pages = shape.n_pages.empty() ? 0 : shape.n_pages.front();
  info_.kv_cache_bytes = made.kv_bytes;
  info_.weight_bytes = made.weight_bytes;
  info_.threads = made.threads;
  info_.tensor_parallel_size = options_.tensor_parallel_size;
  info_.device = made.device;
  info_.isa = made.arithmetic;
  describe();

  metrics_ = std::make_shared<watch::engine_metrics>(watch::engine_labels{
      .model_name = info_.name,
      .cache_dtype = options_.kv_cache_dtype,
      .max_model_len = info_.max_model_len,
      .page_tokens = page_tokens,
      .n_pages = info_.n_pages,
  });
  parts.text = text_;
  parts.eos = info_.eos_tokens;
  parts.n_text_shards = options_.text_threads;
  parts.max_requests = options_.max_requests;
  parts.fold = options_.fold_threads;
  parts.warm_up = options_.warm_up;
  parts.step_limit = std::chrono::seconds(options_.step_timeout);
  parts.metrics = metrics_;
  parts.on_rank_lost = [this](std::string what) { rank_lost(what); };
  system_ = std::make_unique<actor_system>(std::move(parts));
}

void engine::impl::describe() {
  const auto& c = model_->config;
  info_.name = options_.served_model_name.empty() ? model::name_of_model(info_.path) : options_.served_model_name;
  info_.architecture = c.architecture;
  info_.n_layers = c.n_layers;
  info_.hidden = c.hidden;
  info_.vocab = c.vocab;
  info_.context_length = c.context;
  for (const auto& t : model_->weights.source().tensors()) info_.n_parameters += t.shape.elements();
  info_.eos_tokens = c.eos;
  if (text_.tokenizer) {
    info_.bos_token = text_.tokenizer->bos();
    for (token_id id : text_.tokenizer->end_of_generation())
      if (std::find(info_.eos_tokens.begin(), info_.eos_tokens.end(), id) == info_.eos_tokens.end()) info_.eos_tokens.push_back(id);
  }
  if (options_.generation_config == "auto") info_.sampling = recommended_sampling(*model_);
  info_.has_chat_template = text_.chat != nullptr;
}

engine_status engine::impl::status() const {
  engine_status s;
  const system_status now = system_->status();
  s.draining = permits_.closed();
  s.failed = failed() || now.failed;
  s.ready = !s.failed && !s.draining;
  s.requests_in_system = permits_.in_use();
  s.sequences_running = now.running;
  s.sequences_waiting = now.waiting;
  s.pages_total = now.pages_total;
  s.pages_free = now.pages_free;
  s.steps = now.steps;
  return s;
}

void engine::impl::stop(std::chrono::milliseconds drain, std::function<void()> stopped) {
  permits_.close();
  system_->drain(std::chrono::steady_clock::now() + drain, std::move(stopped));
}

void engine::impl::rank_lost(const std::string& what) {
  failed_.store(true, std::memory_order_release);
  std::function<void(std::error_code, std::string)> call;
  {
    std::lock_guard lock(mutex_);
    failure_message_ = what;
    call = std::exchange(failure_callback_, nullptr);
  }
  if (call) call(errc::rank_failed, what);
}

void engine::impl::on_failure(std::function<void(std::error_code, std::string)> callback) {
  {
    std::lock_guard lock(mutex_);
    if (!failed_.load(std::memory_order_acquire)) {
      failure_callback_ = std::move(callback);
      return;
    }
  }
  callback(errc::rank_failed, failure_message_);
}

void engine::impl::shut() noexcept {
  permits_.close();
  if (system_) system_->shut();
}

engine engine::open(engine_options options) { return engine(std::make_shared<impl>(std::move(options))); }

engine::engine(std::shared_ptr<impl> i) : impl_(std::move(i)) {}
engine::engine(engine&&) noexcept = default;
engine& engine::operator=(engine&& other) noexcept {
  if (this != &other) {
    if (impl_) impl_->shut();
    impl_ = std::move(other.impl_);
  }
  return *this;
}
engine::~engine() {
  if (impl_) impl_->shut();
}

const model_info& engine::info() const noexcept { return impl_->info(); }
engine_status engine::status() const { return impl_->status(); }
std::unique_ptr<port> engine::open_port(port_waker waker) {
  return std::unique_ptr<port>(new port(std::make_unique<port::impl>(impl_, waker)));
}
void engine::stop(std::chrono::milliseconds drain, std::function<void()> stopped) { impl_->stop(drain, std::move(stopped)); }
void engine::on_failure(std::function<void(std::error_code, std::string)> f) { impl_->on_failure(std::move(f)); }
std::string engine::metrics() const { return impl_->metrics().expose(); }

std::vector<std::int32_t> engine::tokenize(std::string_view text, bool add_special, bool parse_special) const {
  request r;
  r.prompt = text_prompt{std::string(text), add_special, parse_special};
  return text::encode_prompt(impl_->text(), r).value();
}

std::string engine::detokenize(const std::vector<std::int32_t>& tokens, bool skip_special) const {
  const auto& model = impl_->text();
  request check;
  check.prompt = tokens;
  (void)text::encode_prompt(model, check).value();  // refuses ids outside the vocabulary
  if (!model.tokenizer) throw error(errc::unsupported, "the model has no tokenizer that Troupe reads");
  return model.tokenizer->decode(tokens, skip_special);
}

std::string engine::apply_template(const chat_prompt& prompt) const {
  return text::render_chat(impl_->text(), prompt).value();
}

}  // namespace troupe
