// A service of its own on standalone Asio that embeds a Troupe engine: one io_context runs a line-oriented TCP
// protocol, a timer of the host's, and the engine's streams. One connection: a line with a prompt in, the answer out as
// it is generated, then an empty line. Closing the connection cancels what is running for it.
//
//   asio_service MODEL [PORT]
//   printf 'The capital of France is\n' | nc 127.0.0.1 PORT
#include <asio.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <troupe/asio.hpp>

using asio::ip::tcp;

namespace {

// The rules this code keeps are ARCHITECTURE.md's: a line with co_await names only, coroutines take values.

asio::awaitable<void> answer(troupe::engine& engine, tcp::socket& socket, std::string prompt) {
  troupe::request request;
  request.prompt = troupe::text_prompt{std::move(prompt), true, true};
  request.max_tokens = 48;
  request.sampling.temperature = 0;
  auto stream = co_await engine.async_generate(std::move(request), asio::use_awaitable);
  for (;;) {
    auto piece = co_await stream.async_read(asio::use_awaitable);
    if (!piece) break;
    auto bytes = asio::buffer(piece->text);
    co_await asio::async_write(socket, bytes, asio::use_awaitable);
  }
  auto end = asio::buffer("\n\n", 2);
  co_await asio::async_write(socket, end, asio::use_awaitable);
}

asio::awaitable<void> session(troupe::engine& engine, tcp::socket socket) {
  std::string input;
  try {
    for (;;) {
      auto buffer = asio::dynamic_buffer(input, 64 * 1024);
      std::size_t n = co_await asio::async_read_until(socket, buffer, '\n', asio::use_awaitable);
      std::string line = input.substr(0, n - 1);
      input.erase(0, n);
      if (line == "quit") break;
      auto reply = answer(engine, socket, std::move(line));
      co_await std::move(reply);
    }
  } catch (const std::exception&) {
    // The peer went away, or the request failed; either way this session is over and its stream is cancelled.
  }
}

asio::awaitable<void> listen(troupe::engine& engine, tcp::acceptor acceptor) {
  for (;;) {
    tcp::socket socket = co_await acceptor.async_accept(asio::use_awaitable);
    auto executor = socket.get_executor();
    asio::co_spawn(executor, session(engine, std::move(socket)), asio::detached);
  }
}

// The host's own work goes on beside the engine on the same thread.
void tick(asio::steady_timer& timer, unsigned n) {
  timer.expires_after(std::chrono::seconds(1));
  timer.async_wait([&timer, n](std::error_code code) {
    if (!code) tick(timer, n + 1);
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: asio_service MODEL [PORT]\n"), 2;
  try {
    troupe::engine_options options;
    options.model = argv[1];
    troupe::engine engine = troupe::engine::open(options);

    asio::io_context io(1);
    auto port = static_cast<unsigned short>(argc > 2 ? std::atoi(argv[2]) : 0);
    tcp::acceptor acceptor(io, tcp::endpoint(asio::ip::address_v4::loopback(), port));
    std::printf("listening on %u\n", acceptor.local_endpoint().port());
    std::fflush(stdout);
    asio::steady_timer timer(io);
    tick(timer, 0);
    asio::co_spawn(io, listen(engine, std::move(acceptor)), asio::detached);

    asio::signal_set signals(io, SIGINT, SIGTERM);  // the host owns the signals, the engine none
    signals.async_wait([&](std::error_code, int) {
      engine.async_stop(std::chrono::seconds(2), asio::bind_executor(io, [&](std::error_code) { io.stop(); }));
    });
    io.run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "asio_service: %s\n", e.what());
    return 2;
  }
}
