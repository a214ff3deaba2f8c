#include "src/link/messages.hpp"

#include <boost/test/unit_test.hpp>
#include <random>

#include "src/link/channel.hpp"
#include "src/link/handshake.hpp"

using namespace troupe;
using namespace troupe::link;

namespace {

template <std::size_t N>
void fill(std::array<std::byte, N>& bytes, int from) {
  for (std::size_t i = 0; i < N; ++i) bytes[i] = static_cast<std::byte>(from + static_cast<int>(i));
}

greeting sample_greeting() {
  greeting m;
  m.program = "1.2.3";
  m.rank = 3;
  fill(m.fresh, 1);
  fill(m.proof, 100);
  return m;
}

hello sample_hello() {
  hello m;
  fill(m.proof, 7);
  m.rank = 1, m.size = 2, m.how = joining::tcp;
  m.options.model = "/models/a b.gguf";
  m.options.device = "cuda:3";
  m.options.dtype = "bfloat16";
  m.options.quantization = "int8";
  m.options.deterministic = true;
  m.options.gpu_memory_utilization = 0.1 + 0.2;
  m.options.max_num_seqs = 17;
  m.options.kv_cache_memory_bytes = 1ull << 40;
  m.options.reference = true;
  fill(m.model, 50);
  m.group_secret = std::string("with\0zero", 9);
  return m;
}

ready sample_ready() {
  ready m;
  m.shape.vocab = 448;
  m.shape.max_model_len = 512;
  m.shape.max_slots = 8;
  m.shape.max_batched_tokens = 256;
  m.shape.depth = 2;
  m.shape.groups = {{0, 4, 1000}, {128, 2, 500}};
  m.shape.n_pages = {100, 50};
  m.shape.graph_sizes = {1, 2, 4};
  m.device = "cpu";
  m.arithmetic = "avx2";
  m.threads = 3;
  return m;
}

model::step_done sample_done() {
  model::step_done m;
  m.seq = 1ull << 35;
  m.device_ns = 12;
  m.launch_ns = 1ull << 33;
  m.rows = {{1, 42, 0, -0.5f}, {2, -1, model::row_failed, 0}};
  return m;
}

template <class... T>
int n_that_take(std::span<const std::byte> bytes) {
  return (int{decode<T>(bytes).ok()} + ...);
}
bool any_takes(std::span<const std::byte> bytes) {
  return n_that_take<challenge, greeting, hello, refused, offer, go, ready, model::step_done, failed>(bytes) > 0;
}

offer sample_offer() { return {{100, 200}, 4711}; }
go sample_go() { return {{9, 8}, {"10.0.0.1:1", "[::1]:2"}}; }

std::vector<std::vector<std::byte>> samples() {
  challenge c;
  c.program = "1.2.3";
  return {encode(c),
          encode(sample_greeting()),
          encode(sample_hello()),
          encode(refused{"no"}),
          encode(sample_offer()),
          encode(sample_go()),
          encode(sample_ready()),
          encode(sample_done())};
}

}  // namespace

BOOST_AUTO_TEST_CASE(what_is_encoded_is_read_back) {
  const auto g = decode<greeting>(encode(sample_greeting())).value();
  BOOST_TEST(g.protocol == protocol_version);
  BOOST_TEST(g.program == "1.2.3");
  BOOST_TEST(g.rank == 3u);
  BOOST_TEST((g.fresh == sample_greeting().fresh && g.proof == sample_greeting().proof));

  const auto h = decode<hello>(encode(sample_hello())).value(), was = sample_hello();
  BOOST_TEST((h.proof == was.proof && h.model == was.model && h.how == was.how));
  BOOST_TEST(h.rank == 1u);
  BOOST_TEST(h.size == 2u);
  BOOST_TEST(h.group_secret == was.group_secret);
  BOOST_TEST(h.options.model == was.options.model);
  BOOST_TEST(h.options.device == "cuda:3");
  BOOST_TEST(h.options.dtype == "bfloat16");
  BOOST_TEST(h.options.quantization == "int8");
  BOOST_TEST((h.options.deterministic && h.options.reference && !h.options.enforce_eager));
  BOOST_TEST((h.options.gpu_memory_utilization == 0.1 + 0.2));
  BOOST_TEST(h.options.max_num_seqs == 17u);
  BOOST_TEST(h.options.kv_cache_memory_bytes == 1ull << 40);

  const auto o = decode<offer>(encode(sample_offer())).value();
  BOOST_TEST((o.n_pages == sample_offer().n_pages && o.group_port == 4711));
  const auto go_on = decode<go>(encode(sample_go())).value();
  BOOST_TEST((go_on.n_pages == sample_go().n_pages && go_on.addresses == sample_go().addresses));

  const auto r = decode<ready>(encode(sample_ready())).value(), r0 = sample_ready();
  BOOST_TEST(r.shape.max_batched_tokens == 256u);
  BOOST_TEST(r.shape.depth == 2u);
  BOOST_TEST(r.shape.groups[1].window == 128u);
  BOOST_TEST(r.shape.groups[1].page_bytes == 500u);
  BOOST_TEST((r.shape.n_pages == r0.shape.n_pages && r.shape.graph_sizes == r0.shape.graph_sizes));
  BOOST_TEST((r.device == "cpu" && r.arithmetic == "avx2" && r.threads == 3));

  const auto d = decode<model::step_done>(encode(sample_done())).value();
  BOOST_TEST(d.seq == sample_done().seq);
  BOOST_TEST(d.device_ns == 12u);
  BOOST_TEST(d.launch_ns == 1ull << 33);
  BOOST_TEST(d.rows.size() == 2u);
  BOOST_TEST(d.rows[0].token == 42);
  BOOST_TEST(d.rows[0].logprob == -0.5f);
  BOOST_TEST(d.rows[1].flags == std::uint32_t{model::row_failed});
}

BOOST_AUTO_TEST_CASE(a_cut_message_is_refused) {
  const auto all = samples();
  for (std::size_t n = 0; n < all[0].size(); ++n) BOOST_TEST(!decode<challenge>(std::span(all[0]).first(n)).ok());
  for (std::size_t n = 0; n < all[1].size(); ++n) BOOST_TEST(!decode<greeting>(std::span(all[1]).first(n)).ok());
  for (std::size_t n = 0; n < all[2].size(); ++n) BOOST_TEST(!decode<hello>(std::span(all[2]).first(n)).ok());
  for (std::size_t n = 0; n < all[4].size(); ++n) BOOST_TEST(!decode<offer>(std::span(all[4]).first(n)).ok());
  for (std::size_t n = 0; n < all[5].size(); ++n) BOOST_TEST(!decode<go>(std::span(all[5]).first(n)).ok());
  for (std::size_t n = 0; n < all[6].size(); ++n) BOOST_TEST(!decode<ready>(std::span(all[6]).first(n)).ok());
  for (std::size_t n = 0; n < all[7].size(); ++n)
    BOOST_TEST(!decode<model::step_done>(std::span(all[7]).first(n)).ok());
  auto longer = all[7];
  longer.push_back(std::byte{0});
  BOOST_TEST(!decode<model::step_done>(longer).ok());
}

BOOST_AUTO_TEST_CASE(another_version_is_read_as_far_as_its_number) {
  auto bytes = encode(sample_greeting());
  bytes[4] = std::byte{99};
  bytes.resize(8);
  BOOST_TEST(decode<greeting>(bytes).value().protocol == 99u);
  bytes[0] = std::byte{0};  // of something else altogether
  BOOST_TEST(!decode<greeting>(bytes).ok());
}

BOOST_AUTO_TEST_CASE(what_cannot_be_is_refused) {
  hello h = sample_hello();
  h.rank = 2;  // of 2
  BOOST_TEST(!decode<hello>(encode(h)).ok());
  ready r = sample_ready();
  r.shape.depth = 0;
  BOOST_TEST(!decode<ready>(encode(r)).ok());
  r = sample_ready();
  r.shape.n_pages.pop_back();
  BOOST_TEST(!decode<ready>(encode(r)).ok());
  // Counts that ask for more than has come.
  byte_writer w;
  w.put(std::uint64_t{1}).put(std::uint64_t{0}).put(std::uint64_t{0}).put(std::uint32_t{0xffffffff});
  BOOST_TEST(!decode<model::step_done>(w.bytes()).ok());
  BOOST_TEST(!decode<offer>(byte_writer().put(std::uint32_t{0x40000000}).bytes()).ok());
  // An option that this build does not know.
  auto bytes = encode(sample_hello());
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  bytes[text.find("deterministic")] = std::byte{'x'};
  BOOST_TEST(!decode<hello>(bytes).ok());
}

BOOST_AUTO_TEST_CASE(damaged_messages_are_refused_or_read_within_bounds) {
  std::mt19937 random(7);
  const auto all = samples();
  std::size_t taken = 0;
  for (int round = 0; round < 40000; ++round) {
    auto bytes = all[random() % all.size()];
    for (int k = 0; k < 3; ++k) bytes[random() % bytes.size()] = static_cast<std::byte>(random() % 4 ? random() : 255);
    if (round % 5 == 0) bytes.resize(random() % bytes.size());
    taken += any_takes(bytes);
  }
  BOOST_TEST(taken > 0u);  // damage of a payload is no damage of the form
  BOOST_TEST(taken < 40000u);
}

BOOST_AUTO_TEST_CASE(frames_however_they_come_cut) {
  std::vector<std::byte> stream;
  const auto add = [&](kind k, std::span<const std::byte> bytes) {
    const auto framed = byte_writer().put(static_cast<std::uint32_t>(bytes.size())).put(k).raw(bytes).take();
    stream.insert(stream.end(), framed.begin(), framed.end());
  };
  std::mt19937 random(3);
  std::vector<std::vector<std::byte>> sent;
  for (std::size_t n : {0, 1, 7, 8, 9, 5000, 100'000}) {
    std::vector<std::byte> bytes(n);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    add(kind::plan, bytes);
    sent.push_back(bytes);
  }
  for (int round = 0; round < 100; ++round) {
    frame_parser p;
    std::size_t next = 0;
    for (std::size_t at = 0; at < stream.size();) {
      const auto room = p.room();
      BOOST_REQUIRE(!room.empty());
      const std::size_t n =
          std::min({room.size(), stream.size() - at, std::size_t{1} + random() % (round % 2 ? 9 : 60'000)});
      std::copy_n(stream.begin() + static_cast<std::ptrdiff_t>(at), n, room.begin());
      p.received(n);
      at += n;
      for (auto f = p.next().value(); f; f = p.next().value()) {
        BOOST_TEST((f->kind == kind::plan));
        BOOST_TEST((f->bytes == sent.at(next++)));
      }
    }
    BOOST_TEST(next == sent.size());
  }
}

BOOST_AUTO_TEST_CASE(a_frame_that_cannot_be_is_refused_at_its_head) {
  for (auto [length, k] : {std::pair{1025u, 8u}, {0xffffffffu, 8u}, {1u, 0u}, {1u, 12u}, {0x54544547u, 0x2f202f20u}}) {
    frame_parser p;
    p.limit(1024);
    const auto head = byte_writer().put(length).put(k).take();
    std::copy(head.begin(), head.end(), p.room().begin());
    p.received(head.size());
    BOOST_TEST(!p.next().ok());
  }
}

BOOST_AUTO_TEST_CASE(addresses) {
  BOOST_TEST(parse_address("host:80").value().host == "host");
  BOOST_TEST(parse_address("host:80").value().port == 80u);
  BOOST_TEST(parse_address("[::1]:65535").value().host == "::1");
  BOOST_TEST(to_string(parse_address("[::1]:65535").value()) == "[::1]:65535");
  for (const char* wrong :
       {"", "host", ":80", "host:", "host:65536", "host:-1", "host:8x", "::1:80", "[::1:80", "[]:80", "a b:80"})
    BOOST_TEST(!parse_address(wrong).ok(), wrong);
}

BOOST_AUTO_TEST_CASE(where_a_rank_finds_another) {
  // Ranks 1 and 2 on rank 0's host, rank 3 elsewhere.
  const std::vector<std::string> hosts = {"", "127.0.0.1", "127.0.0.1", "10.0.0.3"};
  BOOST_TEST(reachable(0, 1, hosts, "127.0.0.1", 5) == "127.0.0.1:5");
  BOOST_TEST(reachable(2, 1, hosts, "127.0.0.1", 5) == "127.0.0.1:5");
  BOOST_TEST(reachable(3, 1, hosts, "127.0.0.1", 5) == "10.0.0.3:5");
  BOOST_TEST(reachable(0, 3, hosts, "10.0.0.1", 5) == "10.0.0.1:5");
  BOOST_TEST(reachable(2, 3, hosts, "10.0.0.1", 5) == "10.0.0.1:5");
}
