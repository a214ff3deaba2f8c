#include "src/link/handshake.hpp"

#include <algorithm>
#include <chrono>

namespace troupe::link {
namespace {

constexpr auto refusal_limit = std::chrono::seconds(1);

/// Empty: the two ends are of one version.
std::string version_differs(std::uint32_t protocol, const std::string& program, const char* other) {
  if (protocol == protocol_version && program == program_version()) return {};
  std::string theirs = "protocol " + std::to_string(protocol);
  if (!program.empty()) theirs = "Troupe " + program + ", " + theirs;
  return std::string(other) + " is of " + theirs + ", this one of Troupe " + program_version() + ", protocol " +
         std::to_string(protocol_version) + ": start all ranks from one build";
}

bool is_loopback(const std::string& host) { return host.starts_with("127.") || host == "::1"; }

}  // namespace

std::string program_version() { return TROUPE_VERSION; }

void refuse(channel& link, const std::string& why) {
  // That it does not hear of it changes nothing.
  (void)link.send(kind::refused, encode(refused{why}), std::chrono::steady_clock::now() + refusal_limit).ok();
  link.cut();
}

result<introduced> introduce(channel& link, const std::string& secret, time_point deadline) {
  challenge c;
  c.program = program_version();
  fill_random(c.fresh);
  link.limit(limits::stranger_bytes);
  if (auto sent = link.send(kind::challenge, encode(c), deadline); !sent) return sent.take_error();
  auto g = link.expect<greeting>(kind::greeting, deadline);
  std::string why;
  if (!g)
    why = "no greeting of a rank came";
  else if (g->protocol != protocol_version)
    why = version_differs(g->protocol, g->program, "the rank");
  else if (!equal(g->proof, proof_of_rank(secret, c.fresh, g->fresh, g->rank)))
    why = "the rank does not know the secret: give both the same TROUPE_RENDEZVOUS_SECRET";
  else
    why = version_differs(g->protocol, g->program, "the rank");
  if (!why.empty()) {
    refuse(link, why);
    return failure(errc::rank_failed, g ? link.far() + " was turned away: " + why : g.error().message);
  }
  link.limit(limits::frame_bytes);
  return introduced{g->rank, proof_of_rank0(secret, c.fresh, g->fresh)};
}

result<hello> greet(channel& link, const std::string& secret, std::uint32_t rank, time_point deadline) {
  link.limit(limits::stranger_bytes);
  auto c = link.expect<challenge>(kind::challenge, deadline);
  if (!c) return c.take_error();
  greeting g;
  g.program = program_version();
  g.rank = rank;
  fill_random(g.fresh);
  const std::string differs = version_differs(c->protocol, c->program, "rank 0");
  if (differs.empty()) g.proof = proof_of_rank(secret, c->fresh, g.fresh, rank);
  // Also where the versions differ, so that rank 0 can say so on its side.
  if (auto sent = link.send(kind::greeting, encode(g), deadline); !sent) return sent.take_error();
  if (!differs.empty()) return failure(errc::rank_failed, link.far() + ": " + differs);
  link.limit(limits::hello_bytes);
  auto h = link.expect<hello>(kind::hello, deadline);
  if (!h) return h;
  if (!equal(h->proof, proof_of_rank0(secret, c->fresh, g.fresh)))
    return failure(errc::rank_failed, link.far() + ": does not know the secret: is this rank 0's address?");
  link.limit(limits::frame_bytes);
  return h;
}

digest model_identity(const model::model& m) {
  const model::model_config& c = m.config;
  byte_writer w;
  w.put(std::string_view(c.architecture))
      .put(c.n_layers)
      .put(c.hidden)
      .put(c.n_heads)
      .put(c.n_kv_heads)
      .put(c.head_dim);
  w.put(c.ffn).put(c.vocab).put(c.context).put(c.window).put(c.rms_eps).put(c.act);
  w.put(c.rope.form).put(c.rope.scaling).put(c.rope.dim).put(c.rope.theta).put(c.rope.factor);
  w.put(c.rope.original_context).put(c.rope.attention_factor);
  for (const format::tensor_view& t : m.weights.source().tensors()) {
    w.put(t.name).put(t.type).put(static_cast<std::uint32_t>(t.shape.size()));
    for (std::uint64_t dim : t.shape) w.put(dim);
    w.raw(t.data.first(std::min<std::size_t>(t.data.size(), 64)));
  }
  return sha256().add(w.bytes()).finish();
}

std::string reachable(std::uint32_t of, std::uint32_t for_rank, const std::vector<std::string>& hosts,
                      const std::string& rank0, std::uint16_t port) {
  const std::string& seen = hosts[of];
  // Whoever is on rank 0's host is where rank 0 is, for somebody elsewhere.
  const bool with_rank0 = of == 0 || (is_loopback(seen) && !is_loopback(hosts[for_rank]));
  return to_string({with_rank0 ? rank0 : seen, port});
}

}  // namespace troupe::link
