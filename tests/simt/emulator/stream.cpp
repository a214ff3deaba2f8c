#include "tests/simt/emulator/stream.hpp"

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "tests/simt/emulator/errors.hpp"

namespace simt {
namespace {

thread_local int current = 0;
thread_local int n_captures = 0;

/// TROUPE_SIMT_CARDS; two, as a group of ranks wants them.
int n_cards() {
  const char* const said = std::getenv("TROUPE_SIMT_CARDS");
  const int n = said ? std::atoi(said) : 2;
  return n < 0 ? 0 : n;
}

bool is_done(const stream_state::entry& e) {
  for (const auto& [stream, ticket] : e.after)
    if (stream->done < ticket) return false;
  return true;
}

/// Does what the stream is told until it is closed.
void serve(stream_state& s, std::unique_lock<std::mutex>& lock) {
  cards& c = the_cards();
  set_current_card(s.on->number);
  for (;;) {
    c.changed.wait(lock, [&] { return !s.queue.empty() ? is_done(s.queue.front()) : s.closed; });
    if (s.queue.empty()) return;
    const work what = std::move(s.queue.front().what);
    s.queue.pop_front();
    const bool runs = s.on->broken == cudaSuccess;
    lock.unlock();
    const std::string failure = runs ? what() : std::string();
    lock.lock();
    if (!failure.empty()) {
      std::fprintf(stderr, "emulated card %d: %s\n", s.on->number, failure.c_str());
      s.on->broken = cudaErrorLaunchFailure;
    }
    ++s.done;
    c.changed.notify_all();
  }
}

/// A thread for one stream after the other: its fibers, and their stacks, are there for the next.
void serve_all() {
  cards& c = the_cards();
  std::unique_lock lock(c.mutex);
  for (;;) {
    ++c.n_vacant;
    c.vacant.wait(lock, [&] { return !c.unserved.empty(); });
    --c.n_vacant;
    const auto s = c.unserved.front();
    c.unserved.pop_front();
    serve(*s, lock);
  }
}

}  // namespace

cards& the_cards() {
  static cards& c = []() -> cards& {
    auto* const made = new cards;
    for (int i = 0; i < n_cards(); ++i) {
      auto one = std::make_unique<card>();
      one->number = i;
      one->standard = std::make_shared<stream_state>();
      one->standard->on = one.get();
      made->all.push_back(std::move(one));
    }
    return *made;
  }();
  return c;
}
card& current_card() { return *the_cards().all[static_cast<std::size_t>(current)]; }
void set_current_card(int number) { current = number; }
bool captures() { return n_captures > 0; }

std::shared_ptr<stream_state> state_of(cudaStream_t s) { return s ? s->state : current_card().standard; }

cudaError_t submit(const std::shared_ptr<stream_state>& s, work what) {
  cards& c = the_cards();
  std::lock_guard lock(c.mutex);
  if (s->capture) {
    s->capture->push_back(std::move(what));
    return cudaSuccess;
  }
  if (s->on->broken != cudaSuccess) return s->on->broken;
  stream_state::entry e{std::move(what), {}};
  if (s == s->on->standard) {
    std::erase_if(s->on->streams, [](const auto& other) { return other.expired(); });
    for (const auto& other : s->on->streams)
      if (const auto o = other.lock(); o && o->blocking) e.after.emplace_back(o, o->submitted);
  } else if (s->blocking) {
    e.after.emplace_back(s->on->standard, s->on->standard->submitted);
  }
  s->queue.push_back(std::move(e));
  ++s->submitted;
  if (!std::exchange(s->started, true)) {
    c.unserved.push_back(s);
    if (c.n_vacant < c.unserved.size()) std::thread(serve_all).detach();
    c.vacant.notify_one();
  }
  c.changed.notify_all();
  return cudaSuccess;
}

cudaError_t wait_for(const std::shared_ptr<stream_state>& s) {
  cards& c = the_cards();
  std::unique_lock lock(c.mutex);
  const std::uint64_t ticket = s->submitted;
  c.changed.wait(lock, [&] { return s->done >= ticket; });
  return s->on->broken;
}

cudaError_t wait_for_card(card& k, bool only_blocking) {
  std::vector<std::shared_ptr<stream_state>> all{k.standard};
  {
    std::lock_guard lock(the_cards().mutex);
    for (const auto& s : k.streams)
      if (auto o = s.lock(); o && (o->blocking || !only_blocking)) all.push_back(std::move(o));
  }
  for (const auto& s : all) (void)wait_for(s);
  std::lock_guard lock(the_cards().mutex);
  return k.broken;
}

}  // namespace simt

using namespace simt;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  auto state = std::make_shared<stream_state>();
  state->on = &current_card();
  state->blocking = !(flags & cudaStreamNonBlocking);
  {
    std::lock_guard lock(the_cards().mutex);
    state->on->streams.push_back(state);
  }
  *out = new simt_stream{std::move(state)};
  return told(cudaSuccess);
}
cudaError_t cudaStreamCreate(cudaStream_t* out) { return cudaStreamCreateWithFlags(out, 0); }

/// What it still has to do is done.
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  if (!s) return told(cudaErrorInvalidValue);
  {
    std::lock_guard lock(the_cards().mutex);
    s->state->closed = true;
    the_cards().changed.notify_all();
  }
  delete s;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (captures()) return told(cudaErrorStreamCaptureUnsupported);
  const auto state = state_of(s);
  return told(state == state->on->standard ? wait_for_card(*state->on, true) : wait_for(state));
}
/// A moment of waiting in it, so that a host that polls leaves the processor to the streams' threads.
cudaError_t cudaStreamQuery(cudaStream_t s) {
  const auto state = state_of(s);
  std::unique_lock lock(the_cards().mutex);
  the_cards().changed.wait_for(lock, std::chrono::microseconds(50), [&] { return state->done >= state->submitted; });
  if (state->done < state->submitted) return cudaErrorNotReady;
  return told(state->on->broken);
}
cudaError_t cudaDeviceSynchronize() {
  if (captures()) return told(cudaErrorStreamCaptureUnsupported);
  return told(wait_for_card(current_card(), false));
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  if (!s) return told(cudaErrorStreamCaptureUnsupported);
  std::lock_guard lock(the_cards().mutex);
  s->state->capture = std::make_shared<std::vector<work>>();
  ++n_captures;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* out) {
  std::lock_guard lock(the_cards().mutex);
  if (!s || !s->state->capture) return told(cudaErrorInvalidValue);
  *out = new simt_graph{std::exchange(s->state->capture, nullptr)};
  --n_captures;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = new simt_graph_exec{graph->nodes};
  return told(cudaSuccess);
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return told(cudaSuccess); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t s) {
  return told(submit(state_of(s), [nodes = graph->nodes]() -> std::string {
    for (const work& node : *nodes)
      if (std::string failure = node(); !failure.empty()) return failure;
    return {};
  }));
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* out) {
  *out = new simt_event;
  return told(cudaSuccess);
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  auto moment = std::make_shared<simt_event::moment>();
  e->last = moment;
  e->recorded = true;
  return told(submit(state_of(s), [moment = std::move(moment)]() -> std::string {
    std::lock_guard lock(the_cards().mutex);
    moment->reached = true;
    moment->when = std::chrono::steady_clock::now();
    the_cards().changed.notify_all();
    return {};
  }));
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  if (!e->recorded) return told(cudaSuccess);
  cards& c = the_cards();
  std::unique_lock lock(c.mutex);
  const auto broken = [&] {
    for (const auto& k : c.all)
      if (k->broken != cudaSuccess) return k->broken;
    return cudaSuccess;
  };
  c.changed.wait(lock, [&] { return e->last->reached || broken() != cudaSuccess; });
  return told(broken());
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  std::lock_guard lock(the_cards().mutex);
  if (!from->recorded || !to->recorded) return told(cudaErrorInvalidValue);
  if (!from->last->reached || !to->last->reached) return cudaErrorNotReady;
  *ms = std::chrono::duration<float, std::milli>(to->last->when - from->last->when).count();
  return cudaSuccess;
}
