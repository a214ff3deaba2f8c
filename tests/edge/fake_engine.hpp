#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <troupe/engine.hpp>

/// Stands in for the engine in this test program: fake_engine.cpp defines the members of troupe::engine and troupe::port.
/// What a request does is written in its prompt (for a chat, in its last message):
///
///   say A B C     three pieces "A ", "B ", "C ", then stop
///   count N       N pieces "0 " to "N-1 ", then length
///   tick N MS     as count, one piece every MS milliseconds
///   flood N SIZE  N pieces of SIZE bytes, as fast as the stream's credit allows
///   dumb N        N pieces of one token without text, then stop
///   hang          nothing until it is cancelled
///   late MS       nothing for MS milliseconds, then one piece and stop
///   fail CODE     ends with the error code before any piece
///   break N       N pieces, then errc::rank_failed
///   refuse CODE   port::submit says the code
///   echo          the prompt's parameters as one piece
///   stopped       one piece, then stop with the stop string "END"
///   limit K       as hang, but submit is refused (overloaded) while K streams are open
namespace fake {

struct counts {
  std::uint64_t submitted = 0, cancelled = 0, ended = 0;
  std::uint64_t open = 0;
  std::uint64_t pieces = 0;
};

/// What the tests see of, and tell, a fake engine. Thread-safe.
struct control {
  counts now() const;
  troupe::request last_request() const;
  void set_status(troupe::engine_status);
  /// Waits up to two seconds.
  bool wait_for_cancelled(std::uint64_t n) const;
  /// The same, until no stream is open: a cancelled one ends some time after its connection.
  bool wait_for_all_ended() const;

  mutable std::mutex mutex;
  counts counted;
  troupe::request last;
  troupe::engine_status status;
};

control& of(const troupe::engine&);

/// `stream_buffer` is the credit of a stream in tokens.
troupe::engine open(std::uint32_t stream_buffer = 1024);

}  // namespace fake
