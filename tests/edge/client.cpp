#include "tests/edge/client.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <stdexcept>

#include <boost/json.hpp>

client::client(std::uint16_t port, int receive_buffer) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  if (receive_buffer) ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  const int on = 1;
  ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(port);
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(socket_, reinterpret_cast<sockaddr*>(&at), sizeof at) != 0) {
    ::close(socket_);
    throw std::runtime_error("connect");
  }
}
client::~client() { close(); }
client::client(client&& o) noexcept : socket_(std::exchange(o.socket_, -1)), buffer_(std::move(o.buffer_)), ended_(o.ended_) {}

bool client::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const auto n = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}
void client::finish_sending() { ::shutdown(socket_, SHUT_WR); }
void client::reset() {
  const linger hard{1, 0};
  ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  close();
}
void client::close() {
  if (socket_ >= 0) ::close(socket_);
  socket_ = -1;
}

bool client::more(std::chrono::milliseconds limit) {
  if (ended_) return false;
  pollfd p{socket_, POLLIN, 0};
  if (::poll(&p, 1, static_cast<int>(limit.count())) <= 0) return false;
  char chunk[65536];
  const auto n = ::recv(socket_, chunk, sizeof chunk, 0);
  if (n <= 0) {
    ended_ = true;
    return false;
  }
  buffer_.append(chunk, static_cast<std::size_t>(n));
  return true;
}

std::string client::receive_until(std::string_view mark) {
  std::size_t at;
  while ((at = buffer_.find(mark)) == std::string::npos)
    if (!more()) return std::exchange(buffer_, {});
  std::string out = buffer_.substr(0, at + mark.size());
  buffer_.erase(0, out.size());
  return out;
}

std::string client::receive_all() {
  while (more()) {
  }
  return std::exchange(buffer_, {});
}

bool client::closed_within(std::chrono::milliseconds limit) {
  const auto until = std::chrono::steady_clock::now() + limit;
  while (!ended_) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    more(left);
  }
  return true;
}

std::string client::response::header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? std::string() : it->second;
}

std::optional<client::response> client::receive(bool no_body) {
  std::string head = receive_until("\r\n\r\n");
  if (head.size() < 16 || head.compare(0, 9, "HTTP/1.1 ") != 0 || head.find("\r\n\r\n") == std::string::npos) return {};
  response r;
  r.status = std::stoi(head.substr(9, 3));
  std::size_t at = head.find("\r\n") + 2;
  while (at < head.size() - 2) {
    const auto end = head.find("\r\n", at);
    const auto colon = head.find(':', at);
    std::string name = head.substr(at, colon - at);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    if (r.headers.count(name)) return {};  // we never send one twice
    r.headers[name] = head.substr(colon + 2, end - colon - 2);
    at = end + 2;
  }
  if (no_body || r.status == 204 || r.status / 100 == 1) return r;
  if (r.header("transfer-encoding") == "chunked") {
    for (;;) {
      const std::string line = receive_until("\r\n");
      if (line.size() < 3) return {};
      const auto n = std::stoul(line, nullptr, 16);
      while (buffer_.size() < n + 2)
        if (!more()) return {};
      r.body += buffer_.substr(0, n);
      if (buffer_.compare(n, 2, "\r\n") != 0) return {};
      buffer_.erase(0, n + 2);
      if (n == 0) return r;
    }
  }
  if (r.headers.count("content-length")) {
    const auto n = std::stoul(r.header("content-length"));
    while (buffer_.size() < n)
      if (!more()) return {};
    r.body = buffer_.substr(0, n);
    buffer_.erase(0, n);
    return r;
  }
  r.body = receive_all();
  return r;
}

std::string get(std::string_view path, std::string_view extra) {
  return "GET " + std::string(path) + " HTTP/1.1\r\nHost: test\r\n" + std::string(extra) + "\r\n";
}
std::string post(std::string_view path, std::string_view body, std::string_view extra) {
  return "POST " + std::string(path) + " HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n" + std::string(extra) + "\r\n" + std::string(body);
}
std::string script(std::string_view text, std::string_view more) {
  return R"({"prompt":")" + std::string(text) + "\"" + (more.empty() ? "" : ",") + std::string(more) + "}";
}

std::vector<std::string> events_of(std::string_view body) {
  std::vector<std::string> out;
  while (!body.empty()) {
    const auto end = body.find("\n\n");
    if (end == std::string_view::npos) throw std::runtime_error("an event does not end");
    if (body.substr(0, 6) == "data: ") out.emplace_back(body.substr(6, end - 6));
    body.remove_prefix(end + 2);
  }
  return out;
}

std::string text_of(const std::vector<std::string>& events, std::int64_t index) {
  std::string out;
  for (auto& e : events) {
    if (e == "[DONE]") continue;
    const auto v = boost::json::parse(e);
    if (!v.as_object().contains("choices")) continue;
    for (auto& c : v.at("choices").as_array()) {
      if (c.at("index").as_int64() != index) continue;
      if (auto* t = c.as_object().if_contains("text")) out += t->as_string();
      else if (auto* d = c.at("delta").as_object().if_contains("content")) out += d->as_string();
    }
  }
  return out;
}
