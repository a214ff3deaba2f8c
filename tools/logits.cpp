#include "tools/blocking_client.hpp"
#include "tools/cli.hpp"
#include "tools/rank.hpp"
#include "tools/npy.hpp"

namespace troupe::cli {
namespace {

struct arguments {
  engine_options engine;
  std::string tokens_file, out;
};

class npy_sink final : public logits_sink {
 public:
  npy_sink(npy_writer& out) : out_(out) {}
  void on_logits(std::uint32_t position, std::span<const float> logits) override {
    in_order_ &= position == next_++;
    out_.write(logits);
  }
  bool complete(std::size_t n) const { return in_order_ && next_ == n; }

 private:
  npy_writer& out_;
  std::uint32_t next_ = 0;
  bool in_order_ = true;
};

int run(arguments& a) {
  if (auto code = act_as_rank(a.engine)) return *code;
  request r;
  auto tokens = parse_tokens(read_input(a.tokens_file), a.tokens_file);
  if (tokens.empty()) throw error(errc::invalid_argument, a.tokens_file + ": holds no token ids");
  const std::size_t n = tokens.size();
  r.prompt = std::move(tokens);
  r.max_tokens = 0;
  a.engine.max_num_seqs = 1;
  engine e = engine::open(a.engine);
  npy_writer out(a.out, n, e.info().vocab);
  auto sink = std::make_shared<npy_sink>(out);
  r.logits = sink;
  completion end = blocking_client(e).run(std::move(r), {});
  if (end.error) throw error(static_cast<errc>(end.error.value()), end.message);
  if (!sink->complete(n)) throw error(errc::internal, "the engine did not deliver every position's logits");
  out.close();
  return 0;
}

}  // namespace

void add_logits(CLI::App& app, int& exit_code) {
  auto a = std::make_shared<arguments>();
  CLI::App* c = app.add_subcommand("logits", "teacher-forced logits of given tokens, float32 [n_tokens, vocab] as .npy");
  add_engine_options(*c, a->engine);
  c->add_option("--tokens", a->tokens_file, "a file with token ids (- for stdin); taken as they are, no BOS added")->required();
  c->add_option("-o,--out", a->out, "the .npy file to write")->required();
  c->callback([a, &exit_code] { exit_code = run(*a); });
}

}  // namespace troupe::cli
