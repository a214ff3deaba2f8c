#include <boost/json.hpp>
#include <cstdio>

#include "actors/rank/backends.hpp"
#include "src/model/locate.hpp"
#include "src/model/plan_log.hpp"
#include "tools/cli.hpp"

namespace troupe::cli {
namespace {

struct arguments {
  std::string model, log, device, gpu_plan_file;
  std::uint32_t threads = 0;
  bool json = false;
};

engine_options options_of(const arguments& a, const model::plan_log_header& h) {
  engine_options o;
  o.device = a.device.empty() ? h.device : a.device;
  o.threads = a.threads;
  o.gpu_plan_file = a.gpu_plan_file;
  o.dtype = h.dtype;
  o.quantization = h.quantization;
  o.kv_cache_dtype = h.kv_cache_dtype;
  o.deterministic = h.deterministic;
  o.enforce_eager = h.enforce_eager;
  o.reference = h.reference;
  o.max_model_len = h.max_model_len;
  o.max_num_seqs = h.max_num_seqs;
  o.max_num_batched_tokens = h.max_num_batched_tokens;
  return o;
}

std::shared_ptr<const model::model> open_model_of(const arguments& a, const model::plan_log_header& h) {
  const std::string& name = a.model.empty() ? h.model : a.model;
  return h.load_format == "dummy" ? model::open_dummy_model(name).value()
                                  : model::open_model(model::locate_model(name).value()).value();
}

std::string describe(const model::row_result& r) {
  if (r.slot == 0xffffffffu) return "no row";
  const std::string slot = " in slot " + std::to_string(r.slot);
  return r.flags ? "failure " + std::to_string(r.flags) + slot : "token " + std::to_string(r.token) + slot;
}

boost::json::object json_of(const model::row_result& r) {
  if (r.slot == 0xffffffffu) return {};
  return {{"slot", r.slot}, {"token", r.token}, {"flags", r.flags}};
}

int run(const arguments& a) {
  auto log = model::plan_log_reader::open(a.log).value();
  const model::plan_log_header& h = log.header();
  const auto m = open_model_of(a, h);
  if (model::fingerprint(*m) != h.fingerprint)
    throw error(errc::invalid_argument, a.log + ": was made with another model than " + m->path + ": give " + h.model);
  rank::made_backend made = rank::make_member(options_of(a, h), {h.n_pages}, m, nullptr, nullptr).value();
  const model::replay_report r = model::replay(log, *made.backend).value();
  if (log.cut_off())
    std::fprintf(stderr, "troupe: %s ends in the middle of a record: what was whole was replayed\n", a.log.c_str());
  if (a.json) {
    boost::json::object out = {
        {"device", made.device}, {"steps", r.steps}, {"tokens", r.tokens}, {"differences", r.differences}};
    if (r.differences) out["first"] = {{"step", r.step}, {"logged", json_of(r.logged)}, {"now", json_of(r.now)}};
    std::puts(boost::json::serialize(out).c_str());
  } else {
    std::printf("%llu steps, %llu tokens on %s: ", static_cast<unsigned long long>(r.steps),
                static_cast<unsigned long long>(r.tokens), made.device.c_str());
    if (r.differences)
      std::printf("%llu rows differ, the first in step %llu: logged %s, now %s\n",
                  static_cast<unsigned long long>(r.differences), static_cast<unsigned long long>(r.step),
                  describe(r.logged).c_str(), describe(r.now).c_str());
    else
      std::puts("all equal");
  }
  return r.differences ? 1 : 0;
}

}  // namespace

void add_replay(CLI::App& app, int& exit_code) {
  auto a = std::make_shared<arguments>();
  a->gpu_plan_file = default_plan_file();
  CLI::App* c = app.add_subcommand("replay", "run the steps of a --plan-log again and compare the tokens (exit code 1: they differ)");
  c->add_option("model", a->model, "the model of the log (default: the path in the log)")->type_name("MODEL");
  c->add_option("--plan-log", a->log, "the log, as --plan-log of serve and generate wrote it")->required()->type_name("FILE");
  c->add_option("--device", a->device, "where to compute (default: as logged); other devices round otherwise");
  c->add_option("-t,--threads", a->threads, "compute threads (0: one per core)")->check(CLI::Range(0, 1024));
  c->add_option("--gpu-plan-file", a->gpu_plan_file, "where timed choices of GPU kernels are kept between runs");
  c->add_flag("--json", a->json, "one JSON object: device, steps, tokens, differences, first");
  c->callback([a, &exit_code] { exit_code = run(*a); });
}

}  // namespace troupe::cli
