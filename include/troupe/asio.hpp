#pragma once
/// Completion tokens of standalone Asio: `engine.async_generate(request, token)`, `stream.async_read(token)`,
/// `engine.async_stop(drain, token)`. Header-only over the embedder's own Asio; no Asio type crosses into the library.
/// The handlers run on the token's associated executor; errors arrive as std::error_code.
#include <asio/any_io_executor.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/bind_executor.hpp>
#include <asio/dispatch.hpp>
#include <asio/execution_context.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>
#include <asio/query.hpp>
#include <asio/strand.hpp>
#include <asio/error.hpp>

#define TROUPE_DETAIL_NET asio
#define TROUPE_DETAIL_FLAVOUR standalone_asio
#define TROUPE_DETAIL_ERROR std::error_code
#include <troupe/detail/completion_tokens.ipp>
#undef TROUPE_DETAIL_NET
#undef TROUPE_DETAIL_FLAVOUR
#undef TROUPE_DETAIL_ERROR
