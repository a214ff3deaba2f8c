// Troupe inside a Boost.Asio program: two prompts run at once on one io_context, the second is cancelled through its
// completion token by a timer of the host's.
//
//   boost_service MODEL
#include <boost/asio.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <cstdio>
#include <string>

#include <troupe/boost_asio.hpp>

namespace net = boost::asio;

namespace {

troupe::request prompt(std::string text, std::uint32_t max_tokens) {
  troupe::request r;
  r.prompt = troupe::text_prompt{std::move(text), true, true};
  r.max_tokens = max_tokens;
  r.sampling.temperature = 0;
  r.ignore_eos = true;
  return r;
}

net::awaitable<std::string> whole_answer(troupe::engine& engine, troupe::request request) {
  std::string text;
  auto stream = co_await engine.async_generate(std::move(request), net::use_awaitable);
  for (;;) {
    auto piece = co_await stream.async_read(net::use_awaitable);
    if (!piece) break;
    text += piece->text;
  }
  co_return text;
}

net::awaitable<void> short_answer(troupe::engine& engine) {
  auto request = prompt("The capital of France is", 16);
  auto reading = whole_answer(engine, std::move(request));
  std::string text = co_await std::move(reading);
  std::printf("answer:%s\n", text.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: boost_service MODEL\n"), 2;
  try {
    troupe::engine_options options;
    options.model = argv[1];
    troupe::engine engine = troupe::engine::open(options);
    net::io_context io(1);

    net::co_spawn(io, short_answer(engine), net::detached);

    // Cancelling the completion token cancels the request: its pages are free soon after.
    net::cancellation_signal signal;
    bool cancelled = false;
    net::co_spawn(io, whole_answer(engine, prompt("Once upon a time", 4000)),
                  net::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr e, std::string) {
                    cancelled = e != nullptr;
                  }));
    net::steady_timer timer(io, std::chrono::milliseconds(300));
    timer.async_wait([&](boost::system::error_code) { signal.emit(net::cancellation_type::terminal); });

    io.run();
    std::printf("%s\n", cancelled ? "the long one was cancelled" : "the long one ended by itself");
    return cancelled ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "boost_service: %s\n", e.what());
    return 2;
  }
}
