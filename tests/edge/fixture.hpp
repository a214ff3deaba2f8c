#pragma once
#include <boost/test/unit_test.hpp>

#include <boost/json.hpp>

#include "actors/edge/server.hpp"
#include "tests/edge/client.hpp"
#include "tests/edge/fake_engine.hpp"

/// A server over a fake engine on a free port of the loopback address.
struct served {
  explicit served(troupe::edge::server_options o = {}, std::uint32_t stream_buffer = 1024)
      : engine(fake::open(stream_buffer)), server(engine, with_free_port(std::move(o))) {
    server.start();
  }
  static troupe::edge::server_options with_free_port(troupe::edge::server_options o) {
    o.port = 0;
    return o;
  }
  client connect(int receive_buffer = 0) const { return client(server.port(), receive_buffer); }
  fake::control& control() { return fake::of(engine); }
  /// One request on a connection of its own.
  client::response ask(const std::string& bytes) const {
    auto c = connect();
    BOOST_REQUIRE(c.send(bytes));
    auto r = c.receive();
    BOOST_REQUIRE_MESSAGE(r.has_value(), "no response to " << bytes.substr(0, 200));
    return *r;
  }
  std::string metric(const std::string& series) const {
    const std::string text = ask(get("/metrics")).body;
    const auto at = text.find(series + ' ');
    return at == std::string::npos ? "" : text.substr(at + series.size() + 1, text.find('\n', at) - at - series.size() - 1);
  }

  troupe::engine engine;
  troupe::edge::server server;
};

inline boost::json::value error_of(const client::response& r) {
  BOOST_TEST(r.header("content-type") == "application/json");
  auto v = boost::json::parse(r.body);
  for (auto key : {"message", "type", "param", "code"}) BOOST_TEST(v.at("error").as_object().contains(key));
  return v.at("error");
}
inline std::string string_at(const boost::json::value& v, const char* key) { return std::string(v.at(key).as_string()); }
