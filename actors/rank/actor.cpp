#include "actors/rank/actor.hpp"

#include <new>

#include "src/base/log.hpp"

namespace troupe::rank {

rank_actor::rank_actor(std::uint32_t rank, std::unique_ptr<model::backend> backend)
    : rank_(rank), backend_(std::move(backend)) {}

void rank_actor::on(step_plan&& m, outbox& out) {
  if (lost_) return;
  const model::step_plan_view plan = m.plan->view();
  if (plan.seq() != last_ + 1)
    return fail("plan " + std::to_string(plan.seq()) + " came after plan " + std::to_string(last_), out);
  last_ = plan.seq();
  if (plan.kind() == model::plan_kind::stop) {
    model::step_done done;
    done.seq = plan.seq();
    return out.send(sched::step_done(rank_, std::move(done)));
  }

  if (in_flight_++ == 0) out.step_started();
  if (auto launched = backend_->launch(std::move(m.plan)); !launched) return fail(launched.error().message, out);
  // A backend of depth 1 computes in poll(). With a device, polling goes on from the loop while messages still arrive.
  if (backend_->shape().depth == 1)
    while (advance(out)) {
    }
}

bool rank_actor::advance(outbox& out) {
  if (lost_ || in_flight_ == 0) return false;
  model::step_done done;
  result<bool> finished = false;
  try {
    finished = backend_->poll(done);
  } catch (...) {
    failed(std::current_exception(), out);
    return false;
  }
  if (!finished) {
    fail(finished.error().message, out);
    return false;
  }
  if (!*finished) {
    if (!out.given_up()) return true;
    lost_ = true;  // the scheduler knows; the thread must be free to leave
    out.step_ended();
    return false;
  }
  out.step_ended();
  if (--in_flight_ > 0) out.step_started();
  out.send(sched::step_done(rank_, std::move(done)));
  return in_flight_ > 0;
}

void rank_actor::fail(std::string what, outbox& out) {
  lost_ = true;
  log().error("rank {}: {}", rank_, what);
  out.step_ended();
  out.send(sched::rank_failed(rank_, std::move(what)));
}

void rank_actor::failed(message&, std::exception_ptr error, outbox& out) { failed(error, out); }

void rank_actor::failed(std::exception_ptr error, outbox& out) {
  try {
    std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    fail("out of memory", out);
  } catch (const std::exception& e) {
    fail(e.what(), out);
  } catch (...) {
    fail("an unknown exception", out);
  }
}

}  // namespace troupe::rank
