#include <sys/resource.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <functional>
#include <random>

#include "tests/cpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

struct no_masks final : model::mask_table {
  std::shared_ptr<const model::token_mask> find(std::uint32_t) override { return nullptr; }
};

std::unique_ptr<model::backend> backend(bool reference = false, bool masks = false) {
  cpu::cpu_options o;
  o.max_slots = 4;
  o.max_batched_tokens = 64;
  o.max_model_len = 100;
  o.n_pages = 20;
  o.threads = 2;
  o.reference = reference;
  static auto m = model::open_model(data("llama")).value();
  return cpu::make_cpu_backend(m, o, nullptr, nullptr, masks ? std::make_shared<no_masks>() : nullptr).value();
}

model::plan_row row(slot_id slot, std::uint32_t position, std::uint32_t n) {
  model::plan_row r{};
  r.slot = slot;
  r.kind = model::row_kind::chunk;
  r.output = model::row_output::sample;
  r.position = position;
  r.n_tokens = n;
  return r;
}

/// A plan that runs; each case then spoils it.
model::plan_builder good() {
  model::plan_builder b;
  b.admit(1, {}, 7);
  b.deltas = {{1, 0, 0, 3}, {1, 0, 1, 4}};
  b.tokens = std::vector<token_id>(20, 5);
  b.rows = {row(1, 0, 20)};
  return b;
}

}  // namespace

BOOST_AUTO_TEST_CASE(plans_that_name_what_does_not_exist_are_refused) {
  using spoil = std::function<void(model::plan_builder&)>;
  struct bad_plan {
    const char* name;
    spoil f;
    bool masks = false;
  };
  const bad_plan cases[] = {
      {"unknown slot in a release", [](auto& b) { b.releases = {9}; }},
      {"release of a free slot", [](auto& b) { b.releases = {0}; }},
      {"unknown slot in an admit", [](auto& b) { b.admits[0].slot = 4; }},
      {"slot admitted twice", [](auto& b) { b.admits.push_back(b.admits[0]); }},
      {"adapter", [](auto& b) { b.admits[0].adapter = 0; }},
      {"history with a bad token", [](auto& b) { b.admits[0].history_count = 1; b.tokens[0] = 448; }},
      {"page for an unbound slot", [](auto& b) { b.deltas[0].slot = 2; }},
      {"page for an unknown slot", [](auto& b) { b.deltas[0].slot = 77777; }},
      {"unknown group", [](auto& b) { b.deltas[0].group = 1; }},
      {"unknown page", [](auto& b) { b.deltas[0].page = 20; }},
      {"index beyond the table", [](auto& b) { b.deltas[0].index = 7; }},
      {"missing page", [](auto& b) { b.deltas.pop_back(); }},
      {"fork of an unknown page", [](auto& b) { b.forks = {{0, 20, 1, 1}}; }},
      {"fork to an unknown page", [](auto& b) { b.forks = {{0, 1, 0xffffffffu, 1}}; }},
      {"row of an unbound slot", [](auto& b) { b.rows[0].slot = 0; }},
      {"row of an unknown slot", [](auto& b) { b.rows[0].slot = 0x80000000u; }},
      {"position beyond the longest sequence", [](auto& b) { b.rows[0].position = 90; }},
      {"position that overflows", [](auto& b) { b.rows[0].position = 0xffffffffu; }},
      {"position on a page that is not there", [](auto& b) { b.rows[0].position = 20; }},
      {"token beyond the vocabulary", [](auto& b) { b.tokens[19] = 448; }},
      {"negative token", [](auto& b) { b.tokens[0] = -1; }},
      {"too many tokens", [](auto& b) { b.tokens.resize(65); b.rows[0].n_tokens = 65; }},
      {"last token of a slot without one", [](auto& b) { b.rows[0].input = model::row_input::last_token; b.rows[0].n_tokens = 1; }},
      {"unknown input", [](auto& b) { b.rows[0].input = static_cast<model::row_input>(9); }},
      {"unknown output", [](auto& b) { b.rows[0].output = static_cast<model::row_output>(99); }},
      {"kind of row", [](auto& b) { b.rows[0].kind = model::row_kind::verify; }},
      {"gate without masks", [](auto& b) { b.rows[0].gate = model::row_gate::mask; }},
      {"unknown gate", [](auto& b) { b.rows[0].gate = static_cast<model::row_gate>(2); }, true},
      {"gate at a row that draws nothing",
       [](auto& b) { b.rows[0].gate = model::row_gate::mask, b.rows[0].output = model::row_output::logits; }, true},
      {"two rows write one page", [](auto& b) { b.rows.push_back(b.rows[0]); }},
      {"two slots write one page",
       [](auto& b) {
         b.admit(2, {}, 1);
         b.deltas.push_back({2, 0, 0, 4});
         b.rows.push_back(row(2, 0, 2));
       }},
      {"two draws for one slot", [](auto& b) { b.rows[0].n_tokens = 10; b.rows.push_back(row(1, 10, 5)); }},
  };
  for (const auto& [name, f, masks] : cases) {
    auto one = backend(false, masks);
    model::plan_builder b = good();
    f(b);
    const auto r = one->launch(b.build(1));
    BOOST_TEST(!r.ok(), name);
    if (!r) BOOST_TEST(r.error().code == errc::invalid_argument, name);
  }
  auto one = backend();
  BOOST_TEST(!one->launch(good().build(2)).ok());  // not the next number
  BOOST_TEST(one->launch(good().build(1)).ok());
  BOOST_TEST(!one->launch(model::plan_builder().build(2)).ok());  // one at a time
  model::step_done done;
  BOOST_TEST(one->poll(done).value());
  BOOST_TEST(!one->poll(done).value());
  BOOST_TEST(done.rows.size() == 1u);
  BOOST_TEST(one->launch(model::plan_builder().build(2, model::plan_kind::stop)).ok());
}

BOOST_AUTO_TEST_CASE(rows_of_one_slot_may_follow_one_another) {
  for (bool reference : {false, true}) {
    auto one = backend(reference), two = backend(reference);
    model::plan_builder b = good();
    model::step_done a, c;
    one->launch(b.build(1)).value();
    one->poll(a).value();
    b.rows = {row(1, 0, 7), row(1, 7, 13)};
    b.rows[0].output = model::row_output::none;
    b.rows[1].token_offset = 7;
    two->launch(b.build(1)).value();
    two->poll(c).value();
    BOOST_TEST(a.rows.at(0).token == c.rows.at(0).token);
  }
}

BOOST_AUTO_TEST_CASE(random_plans_never_crash) {
  std::mt19937 random(5);
  for (int round = 0; round < 150; ++round) {
    auto one = backend();
    model::step_done done;
    for (step_seq seq = 1; seq < 12; ++seq) {
      model::plan_builder b;
      const auto small = [&](std::uint32_t n) { return random() % 12 == 0 ? static_cast<std::uint32_t>(random()) : static_cast<std::uint32_t>(random() % n); };
      for (int i = random() % 2; i > 0; --i) b.releases.push_back(small(4));
      for (int i = random() % 3; i > 0; --i) b.admit(small(4), {}, 1);
      for (int i = random() % 20; i > 0; --i) b.deltas.push_back({small(4), 0, small(7), small(20)});
      if (random() % 4 == 0) b.forks.push_back({0, small(20), small(20), small(17)});
      for (int i = 0; i < 64; ++i) b.tokens.push_back(random() % 500 ? static_cast<token_id>(random() % 448) : -1);
      for (int i = random() % 4; i > 0; --i) {
        auto r = row(small(4), small(100), 1 + random() % 20);
        r.output = static_cast<model::row_output>(random() % 4);
        if (random() % 3 == 0) r.input = model::row_input::last_token, r.n_tokens = 1;
        b.rows.push_back(r);
      }
      if (!one->launch(b.build(seq))) break;
      BOOST_TEST_REQUIRE(one->poll(done).value());
    }
  }
}

BOOST_AUTO_TEST_CASE(a_backend_says_what_it_takes_and_refuses_what_cannot_be) {
  auto m = model::open_model(data("llama")).value();
  cpu::cpu_options o;
  o.max_slots = 4;
  o.n_pages = 10;
  const auto plan = cpu::plan_memory(*m, o).value();
  BOOST_TEST(plan.page_bytes == 3u * 2 * 2 * 16 * 16 * 2);  // layers, kv heads, keys and values, head size, tokens, f16
  BOOST_TEST(plan.kv == 10 * plan.page_bytes);
  BOOST_TEST(plan.weights > 0u);
  BOOST_TEST(plan.describe().find("10 pages") != std::string::npos);
  auto b = cpu::make_cpu_backend(m, o, nullptr).value();
  BOOST_TEST(b->shape().vocab == 448u);
  BOOST_TEST(b->shape().max_model_len == 512u);
  BOOST_TEST(b->shape().n_pages.at(0) == 10u);
  BOOST_TEST(b->shape().groups.at(0).page_bytes == plan.page_bytes);
  for (auto spoil : {+[](cpu::cpu_options& x) { x.max_slots = 0; }, +[](cpu::cpu_options& x) { x.max_batched_tokens = 1u << 30; },
                     +[](cpu::cpu_options& x) { x.threads = 1u << 20; }, +[](cpu::cpu_options& x) { x.max_model_len = 1u << 30; }}) {
    cpu::cpu_options bad = o;
    spoil(bad);
    BOOST_TEST(!cpu::make_cpu_backend(m, bad, nullptr).ok());
  }
}

BOOST_AUTO_TEST_CASE(memory_that_the_system_refuses_is_an_error) {
  // Some systems promise any amount, so the test sets the limit itself; sanitizers have reserved some 20 TiB already.
  rlimit before;
  BOOST_TEST_REQUIRE(getrlimit(RLIMIT_AS, &before) == 0);
  rlimit tight = before;
  tight.rlim_cur = std::min<rlim_t>(before.rlim_max, rlim_t{80} << 40);
  BOOST_TEST_REQUIRE(setrlimit(RLIMIT_AS, &tight) == 0);
  cpu::cpu_options huge;
  huge.max_slots = 4;
  huge.n_pages = 0xfffffff0u;  // 96 TiB
  huge.kv = cpu::kv_dtype::f32;
  auto made = cpu::make_cpu_backend(model::open_model(data("llama-bias")).value(), huge, nullptr);
  setrlimit(RLIMIT_AS, &before);
  BOOST_TEST_REQUIRE(!made.ok());
  BOOST_TEST((made.error().code == errc::out_of_memory));
}
