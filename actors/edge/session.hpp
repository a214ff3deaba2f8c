#pragma once
#include <boost/asio/ip/tcp.hpp>

#include "actors/edge/edge_thread.hpp"

namespace troupe::edge {

/// Serves HTTP on the socket until either side closes. On the edge thread.
void start_session(edge_thread&, boost::asio::ip::tcp::socket);

}  // namespace troupe::edge
