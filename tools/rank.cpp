#include "tools/rank.hpp"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <thread>

#include <troupe/error.hpp>

#include "actors/rank/rank_process.hpp"
#include "tools/cli.hpp"

namespace troupe::cli {
namespace {

constexpr std::size_t shortest_secret = 16, longest_secret = 4096;

/// A number that a launcher gives its processes; nothing: it is not there or none.
std::optional<std::uint32_t> number_of(const char* variable) {
  const char* text = std::getenv(variable);
  if (!text) return std::nullopt;
  const std::string_view word(text);
  std::uint32_t n = 0;
  const auto [at, error] = std::from_chars(word.data(), word.data() + word.size(), n);
  if (error != std::errc() || at != word.data() + word.size()) return std::nullopt;
  return n;
}

int act(const rank::rank_process_options& o) {
  auto done = rank::run_rank(o);
  if (done) return 0;
  std::fprintf(stderr, "troupe: rank: %s\n", done.error().message.c_str());
  return exit_code_of(done.error().code);
}

void end_at_once(const std::string& why) {
  // Another thread may hang in a step for the others' sake, so nothing is left in order.
  std::fprintf(stderr, "troupe: rank: %s: this rank ends with the job\n", why.c_str());
  std::_Exit(exit_rank_lost);
}

/// Rank 0 decides about the job's end: what a terminal or a service manager sends to all of the job's processes is its
/// business, and the others end when it does.
void leave_signals_to_rank0() {
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
}

}  // namespace

std::string rendezvous_secret() {
  const char* given = std::getenv("TROUPE_RENDEZVOUS_SECRET");
  std::string secret = given ? given : "";
  if (secret.starts_with('/')) {
    std::ifstream file(secret);
    if (!file)
      throw error(errc::not_found, "TROUPE_RENDEZVOUS_SECRET: " + secret + " cannot be opened: check the path");
    std::getline(file, secret);
  }
  if (secret.size() < shortest_secret || secret.size() > longest_secret)
    throw error(errc::invalid_argument,
                "TROUPE_RENDEZVOUS_SECRET must hold the ranks' common secret of at least " +
                    std::to_string(shortest_secret) +
                    " characters, or the path of a file with it, for example of: head -c 32 /dev/urandom | base64");
  return secret;
}

std::optional<launched_process> launched() {
  struct variables {
    const char *rank, *size, *local_size, *local_rank;
  };
  // Open MPI; MPICH, Intel MPI and other Hydras; srun.
  for (const variables& v : {variables{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE",
                                       "OMPI_COMM_WORLD_LOCAL_RANK"},
                             variables{"PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"},
                             variables{"SLURM_PROCID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_LOCALID"}}) {
    const auto rank = number_of(v.rank), size = number_of(v.size);
    if (rank && size && *rank < *size) return launched_process{*rank, *size, std::max(1u, number_of(v.local_size).value_or(1)),
                                                                number_of(v.local_rank).value_or(0)};
  }
  return std::nullopt;
}

std::optional<int> act_as_rank(engine_options& o) {
  if (std::string path(4096, 0); o.rank_program.empty()) {
    // The link's target reads better in lists of processes, and the link works where the file was replaced meanwhile.
    const ssize_t n = readlink("/proc/self/exe", path.data(), path.size());
    path.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    o.rank_program = access(path.c_str(), X_OK) == 0 ? path : "/proc/self/exe";
  }
  if (o.rendezvous.empty()) return std::nullopt;
  o.rendezvous_secret = rendezvous_secret();
  const auto here = launched();
  if (!here) return std::nullopt;
  if (o.tensor_parallel_size == 1) o.tensor_parallel_size = here->size;
  if (o.tensor_parallel_size != here->size)
    throw error(errc::invalid_argument, "--tensor-parallel-size " + std::to_string(o.tensor_parallel_size) +
                                            ": the launcher has started " + std::to_string(here->size) +
                                            " processes: give both the same number");
  if (o.threads == 0) o.threads = std::max(1u, std::thread::hardware_concurrency() / here->local_size);
  if (here->size == 1) o.rendezvous.clear();
  if (here->rank == 0) return std::nullopt;
  leave_signals_to_rank0();
  rank::rank_process_options r;
  r.join = link::parse_address(o.rendezvous).value();
  r.rank = here->rank;
  r.local_rank = here->local_rank;
  r.secret = o.rendezvous_secret;
  r.model = o.model;
  r.threads = o.threads;
  r.start_limit = std::chrono::seconds(o.rank_start_timeout);
  r.on_lost = end_at_once;
  return act(r);
}

void add_rank(CLI::App& app, int& exit_code) {
  struct arguments {
    rank::rank_process_options rank;
    std::string join;
    std::int64_t number = -1;
    std::uint32_t start_seconds = 300;
    bool child = false;
  };
  auto a = std::make_shared<arguments>();
  CLI::App* c = app.add_subcommand("rank", "a rank of a server with --rendezvous on this or another host");
  c->add_option("model", a->rank.model, "where the model is on this host (default: where it is on rank 0's)")
      ->type_name("MODEL");
  c->add_option("--join", a->join, "where rank 0 listens: its --rendezvous")->type_name("HOST:PORT");
  c->add_option("--rank", a->number, "which rank this is, from 1 (default: the next that is missing)")
      ->check(CLI::Range(1, 255));
  c->add_option("-t,--threads", a->rank.threads, "compute threads (0: one per core)")->check(CLI::Range(0, 1024));
  c->add_option("--device", a->rank.device, "where to compute (default: as rank 0)");
  c->add_option("--rank-start-timeout", a->start_seconds, "seconds to wait for rank 0 and the other ranks")
      ->check(CLI::Range(1, 86'400))
      ->capture_default_str();
  c->add_flag("--child", a->child, "the engine has started this rank")->group("");
  c->footer(
      "Environment: TROUPE_RENDEZVOUS_SECRET, the secret that all ranks share, or the path of a file that holds it.");
  c->callback([a, &exit_code] {
    if (a->child == !a->join.empty())
      throw error(errc::invalid_argument, "--join is missing: give the address of rank 0's --rendezvous");
    if (a->number > 0) a->rank.rank = static_cast<std::uint32_t>(a->number);
    a->rank.start_limit = std::chrono::seconds(a->start_seconds);
    a->rank.on_lost = end_at_once;
    if (a->child) {
      leave_signals_to_rank0();
      prctl(PR_SET_PDEATHSIG, SIGKILL);  // where even the thread that watches the link does not get to run
    } else {
      a->rank.join = link::parse_address(a->join).value();
      a->rank.secret = rendezvous_secret();
    }
    exit_code = act(a->rank);
  });
}

}  // namespace troupe::cli
