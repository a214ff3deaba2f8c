#include "src/model/plan_log.hpp"

#include <spdlog/sinks/ostream_sink.h>

#include <boost/test/unit_test.hpp>
#include <deque>
#include <filesystem>
#include <random>
#include <sstream>
#include <thread>

#include "src/base/log.hpp"
#include "src/model/plan_log_format.hpp"

using namespace troupe;
using namespace troupe::model;
namespace fs = std::filesystem;

namespace {

struct folder {
  folder() {
    std::string name = (fs::temp_directory_path() / "troupe-plan-log-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~folder() { fs::remove_all(path); }
  std::string file(const char* name) const { return (path / name).string(); }
  fs::path path;
};

/// Answers at the second poll; what it draws depends on the plan's number and the row. `spoilt`: at this step
/// otherwise.
class toy_device final : public backend {
 public:
  explicit toy_device(std::uint32_t depth, step_seq spoilt = 0) : spoilt_(spoilt) { shape_.depth = depth; }
  const rank_shape& shape() const override { return shape_; }
  result<void> launch(std::shared_ptr<const step_plan> plan) override {
    BOOST_REQUIRE(flights_.size() < shape_.depth);
    if (plan->view().seq() != ++last_) return failure(errc::invalid_argument, "not the next plan");
    flights_.push_back(std::move(plan));
    return {};
  }
  result<bool> poll(step_done& done) override {
    if (flights_.empty() || ++polls_ % 2) return false;
    const step_plan_view v = flights_.front()->view();
    done.seq = v.seq();
    done.device_ns = 5;
    done.launch_ns = 6;
    done.rows.clear();
    for (const plan_row& r : v.rows()) {
      const auto token = static_cast<token_id>((v.seq() * 31 + r.slot * 7 + r.position) % 1000);
      const bool fails = r.slot == 3;
      done.rows.push_back({r.slot, fails ? -1 : token, fails ? row_failed : 0u, 0.25f});
    }
    if (v.seq() == spoilt_ && !done.rows.empty()) ++done.rows.back().token;
    flights_.pop_front();
    return true;
  }

 private:
  rank_shape shape_;
  std::deque<std::shared_ptr<const step_plan>> flights_;
  step_seq last_ = 0, spoilt_;
  int polls_ = 0;
};

plan_log_header header() {
  plan_log_header h;
  h.model = "/some where/model=1.gguf";
  h.load_format = "auto";
  h.fingerprint = 0xfedcba9876543210u;
  h.device = "cpu";
  h.dtype = "auto";
  h.kv_cache_dtype = "f16";
  h.deterministic = true;
  h.max_model_len = 512;
  h.max_num_seqs = 8;
  h.max_num_batched_tokens = 64;
  h.n_pages = 77;
  return h;
}

std::shared_ptr<const step_plan> random_plan(step_seq seq, std::mt19937& random) {
  plan_builder b;
  for (std::uint32_t i = random() % 4; i > 0; --i) {
    plan_row r{};
    r.slot = i;
    r.output = row_output::sample;
    r.position = random() % 100;
    r.n_tokens = 1 + random() % 3;
    r.token_offset = static_cast<std::uint32_t>(b.tokens.size());
    b.tokens.resize(b.tokens.size() + r.n_tokens, 7);
    b.rows.push_back(r);
  }
  return b.build(seq);
}

/// Logs n plans, with as many in flight as the depth allows, and gives their bytes.
std::vector<std::vector<std::byte>> make_log(const std::string& path, std::uint32_t n, std::uint32_t depth) {
  auto b = with_plan_log(std::make_unique<toy_device>(depth), path, header()).value();
  std::mt19937 random(n);
  std::vector<std::vector<std::byte>> plans;
  step_done done;
  for (step_seq seq = 1, finished = 0; finished < n;) {
    while (seq <= n && seq - finished <= depth) {
      auto p = random_plan(seq++, random);
      plans.emplace_back(p->bytes().begin(), p->bytes().end());
      b->launch(std::move(p)).value();
    }
    finished += b->poll(done).value();
  }
  return plans;
}

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

template <class T>
std::string bytes_of(const T& x) {
  return {reinterpret_cast<const char*>(&x), sizeof x};
}
std::string record_of(std::uint32_t kind, const std::string& payload) {
  return bytes_of(make_record_header(static_cast<log_record>(kind), std::as_bytes(std::span(payload)))) + payload;
}

/// Reads to the end or to the first error.
result<plan_log_reader> read_all(const std::string& path) {
  auto r = plan_log_reader::open(path);
  while (r) {
    auto next = r->next();
    if (!next) return next.take_error();
    if (!*next) break;
  }
  return r;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(plan_logs)

BOOST_AUTO_TEST_CASE(what_was_written_is_read) {
  const folder f;
  const std::string path = f.file("log");
  for (std::uint32_t depth : {1u, 2u}) {
    const auto plans = make_log(path, 50, depth);
    auto r = plan_log_reader::open(path).value();
    const plan_log_header h = r.header(), want = header();
    BOOST_TEST(h.model == want.model);
    BOOST_TEST(h.load_format == want.load_format);
    BOOST_TEST(h.fingerprint == want.fingerprint);
    BOOST_TEST(h.kv_cache_dtype == "f16");
    BOOST_TEST(h.quantization.empty());
    BOOST_TEST((h.deterministic && !h.reference && !h.enforce_eager));
    BOOST_TEST((h.max_model_len == 512 && h.max_num_seqs == 8 && h.max_num_batched_tokens == 64 && h.n_pages == 77));
    std::size_t n_plans = 0, n_done = 0;
    while (auto next = r.next().value()) {
      if (next->plan) {
        const auto bytes = next->plan->bytes();
        BOOST_TEST(std::ranges::equal(bytes, plans.at(n_plans++)));
      } else {
        BOOST_TEST(next->done.seq == ++n_done);
        BOOST_TEST(next->done.device_ns == 5u);
        BOOST_TEST(next->done.launch_ns == 6u);
      }
    }
    BOOST_TEST((n_plans == 50 && n_done == 50 && !r.cut_off()));
    BOOST_TEST(((fs::status(path).permissions() & fs::perms::others_all) == fs::perms::none));
  }
}

BOOST_AUTO_TEST_CASE(a_replay_finds_what_differs) {
  const folder f;
  const std::string path = f.file("log");
  for (std::uint32_t logged : {1u, 2u})
    for (std::uint32_t now : {1u, 2u, 3u}) {
      make_log(path, 60, logged);
      auto log = plan_log_reader::open(path).value();
      toy_device same(now);
      const replay_report r = replay(log, same).value();
      BOOST_TEST(r.steps == 60u);
      BOOST_TEST(r.tokens > 30u);
      BOOST_TEST(r.differences == 0u);
      std::uint64_t found = 0;
      for (step_seq spoilt = 20; spoilt < 24; ++spoilt) {  // some steps have no rows
        auto again = plan_log_reader::open(path).value();
        toy_device other(now, spoilt);
        const replay_report bad = replay(again, other).value();
        found += bad.differences;
        if (bad.differences) {
          BOOST_TEST(bad.step == spoilt);
          BOOST_TEST(bad.logged.slot == bad.now.slot);
          BOOST_TEST(bad.logged.token + 1 == bad.now.token);
        }
      }
      BOOST_TEST(found > 0u);
    }
}

BOOST_AUTO_TEST_CASE(a_log_that_was_cut_off_is_good_up_to_there) {
  const folder f;
  const std::string path = f.file("log"), part = f.file("part");
  make_log(path, 6, 2);
  const std::string whole = read(path);
  std::uint64_t ends = 0, steps = 0;
  for (std::size_t n = 0; n < whole.size(); ++n) {
    write(part, whole.substr(0, n));
    auto r = plan_log_reader::open(part);
    if (!r) {
      BOOST_TEST(r.error().code == errc::invalid_file);
      BOOST_TEST(ends == 0u);  // within the log's header only
      continue;
    }
    toy_device device(2);
    const auto report = replay(*r, device);
    BOOST_TEST_REQUIRE(report.ok());
    BOOST_TEST(report->differences == 0u);
    BOOST_TEST(report->steps >= steps);
    steps = report->steps;
    ends += !r->cut_off();
  }
  BOOST_TEST(ends == 12u);  // after the header and after each record but the last
}

BOOST_AUTO_TEST_CASE(damaged_bytes_are_refused) {
  const folder f;
  const std::string path = f.file("log");
  make_log(path, 6, 2);
  const std::string whole = read(path);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string spoilt = whole;
    spoilt[at] = static_cast<char>(spoilt[at] ^ (1 << at % 8));
    write(path, spoilt);
    const auto r = read_all(path);
    BOOST_TEST(!r.ok(), "byte " << at);
    if (!r) BOOST_TEST(r.error().code == errc::invalid_file);
  }
}

BOOST_AUTO_TEST_CASE(lies_with_good_checks_are_refused) {
  const folder f;
  const std::string path = f.file("log");
  make_log(path, 1, 1);
  const std::string whole = read(path);
  const auto header_end = sizeof(record_header) + whole.find("n_pages=77\n") + 11 - sizeof(record_header);
  const std::string start = whole.substr(0, header_end);
  const std::string head_text = start.substr(8 + sizeof(record_header));
  std::mt19937 random(1);
  const auto plan_of = [&](step_seq seq) {
    const auto p = random_plan(seq, random);
    return std::string(reinterpret_cast<const char*>(p->bytes().data()), p->bytes().size());
  };
  const std::string first = record_of(2, plan_of(1));
  const auto done = [](std::uint64_t seq) { return bytes_of(done_header{seq, 0, 0}); };
  const auto refused = [&](const std::string& bytes, const char* what) {
    write(path, bytes);
    const auto r = read_all(path);
    BOOST_TEST(!r.ok(), what);
    if (!r) BOOST_TEST(r.error().code == errc::invalid_file, what);
  };
  write(path, start + first + record_of(3, done(1)));
  BOOST_TEST(read_all(path).ok());

  refused("", "nothing");
  refused(std::string(4096, '\0'), "zeros");
  refused("TRPLOG01" + start.substr(8), "another version");
  BOOST_TEST(read_all(path).error().message.find("another version") != std::string::npos);
  refused(start + record_of(9, ""), "an unknown kind");
  refused(start + record_of(1, head_text), "a second header");
  refused(start + record_of(2, plan_of(2)), "a plan that is not the first");
  refused(start + first + record_of(2, plan_of(1)), "a plan twice");
  refused(start + record_of(2, "short"), "a plan that is none");
  refused(start + record_of(2, plan_of(1).substr(8)), "half a plan");
  refused(start + record_of(3, done(1)), "an answer without its plan");
  refused(start + first + record_of(3, done(2)), "an answer to a later plan");
  refused(start + first + record_of(3, done(1)) + record_of(3, done(1)), "an answer twice");
  refused(start + first + record_of(3, done(1) + "x"), "an answer of no length");
  const std::string magic = start.substr(0, 8);
  refused(magic + first, "no header");
  refused(magic + record_of(1, ""), "an empty header");
  refused(magic + record_of(1, head_text + "n_pages=5\n"), "a key twice");
  refused(magic + record_of(1, head_text + std::string(1 << 17, 'x')), "a header without end");
  for (const char* wrong : {"n_pages=0", "n_pages=-1", "n_pages=7x", "n_pages=99999999999", "n_pages="}) {
    std::string text = head_text;
    text.replace(text.find("n_pages=77"), 10, wrong);
    refused(magic + record_of(1, text), wrong);
  }
  std::string flag = head_text;
  flag.replace(flag.find("deterministic=1"), 15, "deterministic=2");
  refused(magic + record_of(1, flag), "a flag that is none");

  // A length beyond the file's end is where it was cut off, and takes no memory.
  record_header huge{2, 0xfffffff0u, 0, 0};
  huge.own_check = fnv1a(std::as_bytes(std::span(&huge, 1)).first(16));
  write(path, start + bytes_of(huge) + "abc");
  BOOST_TEST(read_all(path).value().cut_off());

  BOOST_TEST((plan_log_reader::open(f.file("none")).error().code == errc::not_found));
  BOOST_TEST(!plan_log_reader::open(f.path.string()).ok());
}

BOOST_AUTO_TEST_CASE(a_plan_that_the_backend_refuses_is_a_bad_file) {
  const folder f;
  const std::string path = f.file("log");
  make_log(path, 5, 1);
  auto log = plan_log_reader::open(path).value();
  toy_device device(1);
  std::mt19937 random(1);
  device.launch(random_plan(1, random)).value();  // so that the log's first is not the next
  step_done done;
  while (!device.poll(done).value()) {
  }
  const auto r = replay(log, device);
  BOOST_REQUIRE(!r);
  BOOST_TEST(r.error().code == errc::invalid_file);
}

BOOST_AUTO_TEST_CASE(a_full_disk_ends_the_log_and_nothing_else) {
  if (!fs::exists("/dev/full")) return;
  std::ostringstream said;
  auto logger = std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(said));
  set_logger(logger);
  {
    auto b = with_plan_log(std::make_unique<toy_device>(1), "/dev/full", header()).value();
    std::mt19937 random(1);
    step_done done;
    for (step_seq seq = 1; seq <= 300; ++seq) {
      b->launch(random_plan(seq, random)).value();
      while (!b->poll(done).value()) {
      }
      if (seq % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(150));  // over several writes
      BOOST_TEST_REQUIRE(done.seq == seq);
    }
  }
  set_logger(std::make_shared<spdlog::logger>("silent"));
  const std::string text = said.str();
  BOOST_TEST(text.find("/dev/full") != std::string::npos, text);
  BOOST_TEST(text.find("/dev/full") == text.rfind("/dev/full"), text);  // once
}

BOOST_AUTO_TEST_CASE(a_file_that_cannot_be_made_is_said_at_once) {
  const folder f;
  const auto r = with_plan_log(std::make_unique<toy_device>(1), f.file("no such/log"), header());
  BOOST_REQUIRE(!r);
  BOOST_TEST(r.error().code == errc::invalid_argument);
  BOOST_TEST(r.error().message.find("no such/log") != std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()
