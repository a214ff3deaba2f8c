#pragma once
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// A blocking client over a plain socket: the tests send bytes as they like, not as a library allows.
class client {
 public:
  explicit client(std::uint16_t port, int receive_buffer = 0);
  ~client();
  client(client&&) noexcept;
  client& operator=(client&&) = delete;

  bool send(std::string_view bytes);
  void finish_sending();   ///< shutdown of our half
  void reset();            ///< closes with RST
  void close();

  struct response {
    int status = 0;
    std::map<std::string, std::string> headers;  ///< names in lower case
    std::string body;                            ///< without the chunked coding
    std::string header(const std::string& name) const;
  };
  /// The next response; nothing if the connection ends or 30 s pass without a byte. `no_body`: to a HEAD.
  std::optional<response> receive(bool no_body = false);
  /// Bytes until `mark` has come (it included), or until the end.
  std::string receive_until(std::string_view mark);
  /// Whatever comes until the connection ends.
  std::string receive_all();
  /// True: the other side has closed, within the time given.
  bool closed_within(std::chrono::milliseconds);

 private:
  bool more(std::chrono::milliseconds = std::chrono::seconds(30));
  int socket_ = -1;
  std::string buffer_;
  bool ended_ = false;
};

std::string get(std::string_view path, std::string_view extra_headers = {});
std::string post(std::string_view path, std::string_view body, std::string_view extra_headers = {});
/// A body for /v1/completions whose prompt is the fake engine's script.
std::string script(std::string_view text, std::string_view more_fields = {});
/// The `data:` payloads of an event stream.
std::vector<std::string> events_of(std::string_view body);
/// The text of choice `index` in a stream of completions or chat completions.
std::string text_of(const std::vector<std::string>& events, std::int64_t index = 0);
