#include "actors/runtime/supervisor.hpp"

#include <algorithm>

namespace troupe::runtime {

void supervisor::on(const rank_failed& m, outbox& out) {
  // Ranks fail in company: the others follow when the communicators are aborted, and some say so more than once.
  if (std::ranges::find(lost_, m.rank) != lost_.end()) return;
  lost_.push_back(m.rank);
  out.on_fault({incident::kind::rank_failed, m.rank, 0, m.error, m.text});
}

void supervisor::on(const stopped& m, outbox& out) {
  if (out.on_stopped) out.on_stopped(m.who);
}

void supervisor::on(const step_overdue& m, outbox& out) {
  if (overdue_ && m.seq <= *overdue_) return;
  overdue_ = m.seq;
  out.on_fault({incident::kind::step_overdue,
                m.rank,
                m.seq,
                {},
                "step " + std::to_string(m.seq) + " has not come back from rank " + std::to_string(m.rank)});
}

void supervisor::on(const watch& m, outbox&) {
  const bool known = std::ranges::any_of(watched_, [&](const watched& w) { return w.dog == m.dog; });
  if (!m.dog || known) return;
  watched_.push_back({m.dog, m.rank});
  next_look_ = time_point::min();  // the first look, at once, sets the rhythm
}

void supervisor::on(const unwatch& m, outbox&) {
  std::erase_if(watched_, [&](const watched& w) { return w.dog == m.dog; });
  if (watched_.empty()) next_look_.reset();
}

void supervisor::on(tick t, outbox& out) {
  for (watched& w : watched_) {
    const watchdog::reading now = w.dog->read();
    if (!now.busy || now.count != w.count || !w.still_since) {
      w.count = now.count;
      w.reported = false;
      w.still_since.reset();
      if (now.busy) w.still_since = t.now;
    } else if (!w.reported && t.now - *w.still_since >= w.dog->limit()) {
      w.reported = true;
      const auto limit = std::chrono::duration_cast<std::chrono::milliseconds>(w.dog->limit()).count();
      out.on_fault({incident::kind::watchdog_overdue,
                    w.rank,
                    0,
                    {},
                    w.dog->name() + " has made no progress for " + std::to_string(limit) + " ms"});
    }
  }
  plan_look(t.now);
}

void supervisor::plan_look(time_point now) {
  next_look_.reset();
  for (const watched& w : watched_) {
    const time_point look = now + std::max<time_point::duration>(w.dog->limit() / 4, std::chrono::milliseconds(1));
    if (!next_look_ || look < *next_look_) next_look_ = look;
  }
}

}  // namespace troupe::runtime
