// A program that knows of Troupe only what `cmake --install` left: greedy ids in, text out.
#include <asio.hpp>
#include <cstdio>
#include <string>

#include <troupe/asio.hpp>

namespace {

asio::awaitable<void> answer(troupe::engine& engine, std::string text, int& exit_code) {
  troupe::request request;
  request.prompt = troupe::text_prompt{std::move(text), true, true};
  request.max_tokens = 24;
  request.sampling.temperature = 0;
  request.ignore_eos = true;
  auto stream = co_await engine.async_generate(std::move(request), asio::use_awaitable);
  for (;;) {
    auto piece = co_await stream.async_read(asio::use_awaitable);
    if (!piece) break;
    std::fwrite(piece->text.data(), 1, piece->text.size(), stdout);
  }
  exit_code = stream.result() && stream.result()->usage.completion_tokens == 24 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 64;
  try {
    troupe::engine_options options;
    options.model = argv[1];
    auto engine = troupe::engine::open(options);
    int exit_code = 1;
    asio::io_context io(1);
    std::string text = argv[2];
    asio::co_spawn(io, answer(engine, std::move(text), exit_code), asio::detached);
    io.run();
    return exit_code;
  } catch (const troupe::error& e) {
    std::fprintf(stderr, "consumer: %s\n", e.message().c_str());
    return 2;
  }
}
