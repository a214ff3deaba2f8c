#include "actors/edge/server.hpp"

#include <ctime>
#include <vector>

#include <boost/asio/ip/tcp.hpp>

#include "actors/edge/edge_thread.hpp"

namespace troupe::edge {

namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

// Lets several sockets listen on one address; the kernel spreads connections over them.
class reuse_port {
 public:
  template <class Protocol> int level(const Protocol&) const { return SOL_SOCKET; }
  template <class Protocol> int name(const Protocol&) const { return SO_REUSEPORT; }
  template <class Protocol> const void* data(const Protocol&) const { return &on_; }
  template <class Protocol> std::size_t size(const Protocol&) const { return sizeof on_; }

 private:
  int on_ = 1;
};

[[noreturn]] void fail(const tcp::endpoint& at, const boost::system::error_code& ec) {
  throw error(errc::io_failed, "cannot listen on " + at.address().to_string() + " port " + std::to_string(at.port()) + " (" +
                                   ec.message() + "): choose another --host or --port");
}

void listen_on(tcp::acceptor& a, const tcp::endpoint& at, bool shared) {
  boost::system::error_code ec;
  a.open(at.protocol(), ec);
  if (!ec) a.set_option(asio::socket_base::reuse_address(true), ec);
  if (!ec && shared) a.set_option(reuse_port(), ec);
  if (!ec) a.bind(at, ec);
  if (!ec) a.listen(asio::socket_base::max_listen_connections, ec);
  if (ec) fail(at, ec);
}

tcp::endpoint resolve(asio::io_context& context, const std::string& host, std::uint16_t port) {
  boost::system::error_code ec;
  const auto address = asio::ip::make_address(host, ec);
  if (!ec) return {address, port};
  tcp::resolver resolver(context);
  const auto found = resolver.resolve(host, std::to_string(port), tcp::resolver::passive, ec);
  if (ec || found.empty()) throw error(errc::io_failed, "host '" + host + "' has no address (" + ec.message() + "): use an address of this machine");
  return found.begin()->endpoint();
}

}  // namespace

class server::impl {
 public:
  impl(engine& e, server_options o) : shared_(e, std::move(o)) {
    if (shared_.options.threads == 0 || shared_.options.threads > 64) throw error(errc::invalid_argument, "server threads must be from 1 to 64");
    if (shared_.options.max_connections == 0) throw error(errc::invalid_argument, "max_connections must be at least 1");
    if (shared_.options.max_header_bytes < 256) throw error(errc::invalid_argument, "max_header_bytes must be at least 256");
    for (auto& key : shared_.options.api_keys)
      if (key.empty()) throw error(errc::invalid_argument, "an API key is empty: give it at least one character");
  }
  ~impl() { stop(std::chrono::milliseconds(0)); }

  void start() {
    shared_.started = std::time(nullptr);
    for (std::uint32_t i = 0; i < shared_.options.threads; ++i) threads_.push_back(std::make_unique<edge_thread>(shared_));
    auto at = resolve(threads_[0]->context(), shared_.options.host, shared_.options.port);
    const bool several = threads_.size() > 1;
    if (several && at.port() != 0) {
      // SO_REUSEPORT would also let a second server take half of the connections of a first one: ask without it.
      tcp::acceptor probe(threads_[0]->context());
      listen_on(probe, at, false);
    }
    for (auto& t : threads_) {
      listen_on(t->listener(), at, several);
      at.port(t->listener().local_endpoint().port());
    }
    port_ = at.port();
    for (auto& t : threads_) t->start();
    running_ = true;
  }

  void drain() {
    if (!running_ || shared_.draining.exchange(true)) return;
    for (auto& t : threads_) t->stop_listening();
  }

  void stop(std::chrono::milliseconds limit) {
    if (!running_) return;
    const auto until = std::chrono::steady_clock::now() + limit;
    drain();
    // A connection that a listener took just before it closed is counted only now.
    for (auto& t : threads_) t->wait_until_idle();
    if (!shared_.wait_for_none(until)) {
      for (auto& t : threads_) t->abort_all();
      // Sessions close at once; only a helper's work on a body may hold one a little longer.
      while (!shared_.wait_for_none(std::chrono::steady_clock::now() + std::chrono::milliseconds(100)))
        for (auto& t : threads_) t->abort_all();
    }
    shared_.helper.join();
    for (auto& t : threads_) t->finish();
    threads_.clear();
    running_ = false;
  }

  shared_state shared_;
  std::vector<std::unique_ptr<edge_thread>> threads_;
  std::uint16_t port_ = 0;
  bool running_ = false;
};

server::server(engine& e, server_options o) : impl_(std::make_unique<impl>(e, std::move(o))) {}
server::~server() = default;
void server::start() { impl_->start(); }
std::uint16_t server::port() const noexcept { return impl_->port_; }
void server::drain() { impl_->drain(); }
void server::stop(std::chrono::milliseconds limit) { impl_->stop(limit); }
std::size_t server::connections() const noexcept { return impl_->shared_.connections(); }

}  // namespace troupe::edge
