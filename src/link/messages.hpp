#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <troupe/options.hpp>

#include "src/base/result.hpp"
#include "src/link/bytes.hpp"
#include "src/link/crypto.hpp"
#include "src/model/backend.hpp"

/// What the process of rank 0 and that of another rank say to each other over one connection. A frame is its length and
/// kind in 32 bits each, then the message. In order:
///
///   rank 0                       the rank
///   challenge             ->
///                         <-     greeting: its proof that it knows the secret
///   hello: rank 0's proof ->     or refused, with a sentence, and the connection closes
///                         <-     offer: what it can hold, where its collective listens
///   go: what all hold     ->
///                         <-     ready: its shape
///   plan, plan, ...       ->
///                         <-     done, done, ...
///   stop                  ->     leaves with exit code 0
///
/// The rank says `failed` at any time after the hello when it cannot go on. A connection that closes without `stop`
/// ends both: to the rank it says that the job has ended, to rank 0 that the rank is lost.
///
/// Both sides are of one build of one protocol version and byte order; nothing is encrypted, so the network between
/// hosts must be one's own. Everything decoded is bounded and checked, whoever sent it.
namespace troupe::link {

inline constexpr std::uint32_t protocol_version = 2;
inline constexpr std::uint32_t any_rank = 0xffffffff;

enum class kind : std::uint32_t { challenge = 1, greeting, hello, refused, offer, go, ready, plan, done, failed, stop };

namespace limits {
inline constexpr std::uint32_t ranks = 1024;
inline constexpr std::size_t stranger_bytes = 1024;  ///< of a frame from somebody who has proved nothing yet
inline constexpr std::size_t hello_bytes = 128 << 10;
inline constexpr std::size_t frame_bytes = 64 << 20;
inline constexpr std::size_t text_bytes = 4096;
inline constexpr std::uint32_t kv_groups = 64, depth = 64, graph_sizes = 4096;
}  // namespace limits

using nonce = std::array<std::byte, 16>;

struct challenge {
  std::uint32_t protocol = protocol_version;
  std::string program;  ///< version of the program
  nonce fresh{};
};

struct greeting {
  std::uint32_t protocol = protocol_version;
  std::string program;
  std::uint32_t rank = any_rank;
  nonce fresh{};
  digest proof{};
};

/// How the ranks' collective comes about.
enum class joining : std::uint32_t {
  shared_memory,  ///< inherited file descriptor
  tcp,            ///< each rank listens, addresses are in `go`
};

struct hello {
  digest proof{};
  std::uint32_t rank = 0, size = 1;
  joining how = joining::shared_memory;
  engine_options options;  ///< those that ranks must know (`option_table`), the model's path included
  digest model{};          ///< `model_identity`
  std::string group_secret;
};

struct refused {
  std::string text;
};

struct offer {
  std::vector<std::uint32_t> n_pages;  ///< the most that the rank can hold, per KV group
  std::uint16_t group_port = 0;        ///< joining::tcp
};

struct go {
  std::vector<std::uint32_t> n_pages;
  std::vector<std::string> addresses;  ///< joining::tcp: HOST:PORT of every rank as this one reaches it
};

struct ready {
  model::rank_shape shape;
  std::string device, arithmetic;
  std::uint32_t threads = 0;
};

struct failed {
  std::string text;
};

std::vector<std::byte> encode(const challenge&);
std::vector<std::byte> encode(const greeting&);
std::vector<std::byte> encode(const hello&);
std::vector<std::byte> encode(const refused&);
std::vector<std::byte> encode(const offer&);
std::vector<std::byte> encode(const go&);
std::vector<std::byte> encode(const ready&);
std::vector<std::byte> encode(const model::step_done&);
std::vector<std::byte> encode(const failed&);

/// Errors: invalid_argument, for bytes that are no such message. Of challenge and greeting the protocol's number can be
/// read whatever the rest is: it is checked first, and a wrong one is returned with the rest left empty.
template <class T>
result<T> decode(std::span<const std::byte>);

/// What each side proves: that it knew the secret after it had seen the other's nonce.
digest proof_of_rank(std::string_view secret, const nonce& of_rank0, const nonce& of_rank, std::uint32_t rank);
digest proof_of_rank0(std::string_view secret, const nonce& of_rank0, const nonce& of_rank);

/// HOST:PORT, [HOST]:PORT where the host has colons.
struct address {
  std::string host;
  std::uint16_t port = 0;
};
result<address> parse_address(std::string_view);
std::string to_string(const address&);

}  // namespace troupe::link
