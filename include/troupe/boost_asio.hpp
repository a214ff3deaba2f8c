#pragma once
/// Completion tokens of Boost.Asio: the same as <troupe/asio.hpp>, with boost::system::error_code. Both headers may be
/// included in one program.
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/query.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/error.hpp>

#define TROUPE_DETAIL_NET boost::asio
#define TROUPE_DETAIL_FLAVOUR boost_asio
#define TROUPE_DETAIL_ERROR boost::system::error_code
#include <troupe/detail/completion_tokens.ipp>
#undef TROUPE_DETAIL_NET
#undef TROUPE_DETAIL_FLAVOUR
#undef TROUPE_DETAIL_ERROR
