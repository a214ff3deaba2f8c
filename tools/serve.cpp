#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "actors/edge/server.hpp"
#include "tools/cli.hpp"
#include "tools/rank.hpp"
#include "tools/serve_config.hpp"

namespace troupe::cli {
namespace {

struct arguments {
  engine_options engine;
  edge::server_options server;
  std::string config;
  unsigned drain_seconds = 30;
  bool print = false;
};

/// A flag that another thread raises and poll() can wait for.
class raised_flag {
 public:
  raised_flag() : fd_(eventfd(0, EFD_CLOEXEC)) {}
  ~raised_flag() { close(fd_); }
  void raise() noexcept {
    const std::uint64_t one = 1;
    (void)!write(fd_, &one, sizeof one);
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

/// SIGINT and SIGTERM as a file descriptor, blocked in every thread that starts from now on.
int open_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signalfd(-1, &set, SFD_CLOEXEC);
}

int take_signal(int fd) {
  signalfd_siginfo info{};
  return read(fd, &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
}

enum class event { signal, failed, drained };

constexpr auto last_answers = std::chrono::seconds(1);   // after a lost rank: probes and new requests hear of it
constexpr auto exit_limit = std::chrono::seconds(15);    // for leaving in order after that

event wait(int signals, raised_flag& failed, raised_flag& drained) {
  pollfd fds[] = {{failed.fd(), POLLIN, 0}, {signals, POLLIN, 0}, {drained.fd(), POLLIN, 0}};
  while (::poll(fds, 3, -1) < 0) {
  }
  return fds[0].revents ? event::failed : fds[1].revents ? event::signal : event::drained;
}

/// A lost rank has ended every stream with an error event, and the process is of no more use: leaves within `exit_limit`,
/// whatever hangs on the way (a driver's own exit handlers, say), because its keeper restarts it when it has gone.
void leave_for_sure(int signals, edge::server& server) {
  std::thread([] {
    std::this_thread::sleep_for(exit_limit);
    std::_Exit(exit_rank_lost);
  }).detach();
  pollfd signalled{signals, POLLIN, 0};
  (void)::poll(&signalled, 1, static_cast<int>(std::chrono::milliseconds(last_answers).count()));
  server.stop(std::chrono::seconds(2));
}

int run(arguments& a, CLI::App& command) {
  if (!a.config.empty()) apply_config_file(command, a.config);
  if (a.print) {
    std::fputs(print_config(command).c_str(), stdout);
    return 0;
  }
  if (auto code = act_as_rank(a.engine)) return *code;
  const int signals = open_signals();
  raised_flag failed, drained;

  engine e = engine::open(a.engine);
  e.on_failure([&](std::error_code, std::string what) {
    std::fprintf(stderr, "troupe: a rank was lost: %s: restart the server\n", what.c_str());
    failed.raise();
  });
  a.server.version = TROUPE_VERSION;
  edge::server server(e, a.server);
  server.start();
  const model_info& info = e.info();
  std::fprintf(stderr, "%s: %s, %u threads (%s), %u tokens of context, %u sequences at once, %.0f MB of KV cache\n", info.name.c_str(),
               info.device.c_str(), info.threads, info.isa.c_str(), info.max_model_len, info.max_num_seqs, info.kv_cache_bytes / 1e6);
  std::printf("listening on http://%s:%u\n", a.server.host.c_str(), server.port());
  std::fflush(stdout);

  event what = wait(signals, failed, drained);
  if (what == event::signal) {
    take_signal(signals);
    std::fprintf(stderr, "troupe: draining for at most %u s; a second signal ends at once\n", a.drain_seconds);
    server.drain();
    e.stop(std::chrono::seconds(a.drain_seconds), [&] { drained.raise(); });
    what = wait(signals, failed, drained);
    if (what == event::signal) std::_Exit(128 + take_signal(signals));
    if (e.status().failed) what = event::failed;  // that is why the drain has ended, though its word may come later
  }
  if (what == event::failed) {
    leave_for_sure(signals, server);
    return exit_rank_lost;
  }
  server.stop(std::chrono::seconds(5));
  return 0;
}

}  // namespace

void add_serve(CLI::App& app, int& exit_code) {
  auto a = std::make_shared<arguments>();
  CLI::App* c = app.add_subcommand("serve", "the HTTP server: OpenAI's API, streams over SSE");
  add_engine_options(*c, a->engine);
  c->add_option("--host", a->server.host, "address to listen on")->capture_default_str();
  c->add_option("--port", a->server.port, "port to listen on (0: any)")->check(CLI::Range(0, 65535))->capture_default_str();
  c->add_option("--api-key", a->server.api_keys, "accepted in Authorization: Bearer KEY; may be given again");
  c->add_option("--served-model-name", a->engine.served_model_name,
                "the model's name in the API (default: the folder's or file's)");
  c->add_option("--max-requests", a->engine.max_requests, "requests in the system; more are refused with 503")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  c->add_option("--max-connections", a->server.max_connections, "open connections")->capture_default_str();
  add_size_option(*c, "--max-body-bytes", a->server.max_body_bytes, "longest request body")->capture_default_str();
  c->add_option("--stream-buffer", a->engine.stream_buffer, "tokens a stream may be ahead of its reader")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  c->add_option("--stall-seconds", a->engine.stall_seconds, "a stream whose reader stands still this long is cancelled")->capture_default_str();
  c->add_flag("--warm-up", a->engine.warm_up, "capture all graphs before the first request (GPU)");
  c->add_option("--http-threads", a->server.threads, "threads for sockets")->check(CLI::Range(1, 64))->capture_default_str();
  c->add_option("--text-threads", a->engine.text_threads, "threads for tokenizing")->check(CLI::Range(1, 64))->capture_default_str();
  c->add_flag("--fold-threads", a->engine.fold_threads, "tokenizing and scheduling on one thread, for one or two cores");
  c->add_option("--step-timeout", a->engine.step_timeout,
                "seconds; a rank that works longer on one step is lost: streams end, exit code 70")
      ->check(CLI::Range(1, 86'400))
      ->capture_default_str();
  c->add_option("--cors-origin", a->server.cors_origin, "value of Access-Control-Allow-Origin");
  c->add_option("--drain-seconds", a->drain_seconds, "how long running requests may go on after SIGTERM")->capture_default_str();
  c->add_option("--inject-fault", a->engine.inject_fault,
                "a fault on purpose, to see how a deployment takes it: step=N:fail, step=N:no-memory, step=N:slow=500ms, "
                "step=N+:slow=500ms (from N on), step=N:hang (device), step=N:freeze (thread); rank=R: before it for rank R")
      ->type_name("SPEC");
  bind_environment(*c);
  c->add_option("--config", a->config, "a TOML file with any of these options");
  c->add_flag("--print-config", a->print, "print the effective configuration as TOML and exit");
  c->callback([a, c, &exit_code] { exit_code = run(*a, *c); });
}

}  // namespace troupe::cli
