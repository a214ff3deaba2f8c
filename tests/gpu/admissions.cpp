#include "src/gpu/slot_admissions.hpp"

#include <optional>

#include "tests/backend/gates.hpp"
#include "tests/gpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;
using gpu::slot_admissions;

// How admissions are divided knows no device: these cases need no card.
BOOST_AUTO_TEST_SUITE(admission_pieces)

namespace {

constexpr std::uint32_t most = slot_admissions::max_biases;

model::slot_admit admission(std::uint32_t n_biases, std::uint32_t history, bool penalizes = true) {
  model::plan_builder b;
  sampling_params p;
  if (penalizes) p.presence_penalty = 0.5f;
  model::slot_admit a = b.admit(0, p, 1);
  a.bias_count = n_biases;
  a.history_count = history;
  return a;
}

using admissions = std::vector<model::slot_admit>;

/// Of all pieces, one after the other.
std::vector<std::size_t> sizes(const admissions& all, const slot_admissions::room& r) {
  std::vector<std::size_t> out;
  for (std::span<const model::slot_admit> left = all; !left.empty(); left = left.subspan(out.back())) {
    out.push_back(slot_admissions::fitting(left, r));
    BOOST_REQUIRE(out.back() > 0u);
  }
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_room_holds_any_admission_and_many_small_ones) {
  for (std::uint32_t slots : {1u, 2u, 16u, 256u}) {
    model::rank_shape shape;
    shape.max_slots = slots;
    shape.max_model_len = 100;
    const auto room = slot_admissions::room_of(shape);
    const admissions large{admission(0xffffffffu, 0xffffffffu)};
    BOOST_TEST(slot_admissions::fitting(large, room) == 1u);
    const admissions small(slots, admission(0, 1000, false));
    BOOST_TEST(slot_admissions::fitting(small, room) == slots);
  }
}

BOOST_AUTO_TEST_CASE(pieces_end_where_a_pool_is_full) {
  const slot_admissions::room room{8, 2 * most, 100};
  const auto check = [&](const admissions& all, const std::vector<std::size_t>& want) {
    BOOST_TEST(sizes(all, room) == want, boost::test_tools::per_element());
  };
  BOOST_TEST(slot_admissions::fitting({}, room) == 0u);
  // Slots.
  check(admissions(8, admission(0, 0)), {8});
  check(admissions(17, admission(0, 0)), {8, 8, 1});
  // Biases: an exact fit, one too many, and more than a slot can have, which are cut.
  check({admission(most, 0), admission(most - 1, 0), admission(1, 0)}, {3});
  check({admission(most, 0), admission(most - 1, 0), admission(2, 0)}, {2, 1});
  check({admission(most, 0), admission(most, 0), admission(0, 0)}, {3});
  check(admissions(4, admission(5 * most, 0)), {2, 2});
  // Histories: an exact fit, one too many, and longer than a sequence can be, which are cut.
  check({admission(0, 60), admission(0, 40), admission(0, 0)}, {3});
  check({admission(0, 60), admission(0, 41)}, {1, 1});
  check({admission(0, 1000), admission(0, 0), admission(0, 0xffffffffu), admission(0, 1)}, {2, 1, 1});
  // Nobody counts the history of a slot without penalties.
  check(admissions(8, admission(0, 100, false)), {8});
  // Whichever pool is full first.
  check({admission(most, 50), admission(1, 51), admission(most, 0), admission(most, 49)}, {1, 2, 1});
}

BOOST_AUTO_TEST_SUITE_END()

namespace {

constexpr slot_id n_slots = 24;

struct admitted {
  sampling_params sampling;
  std::vector<token_id> prompt, history;
};

/// Slots with no, few and all biases. All biases leave a slot nothing but the tokens t with t % n_slots == slot, which
/// says whose biases they are.
std::vector<admitted> all_admitted(std::uint32_t vocab, std::mt19937& random) {
  std::vector<admitted> out;
  for (slot_id s = 0; s < n_slots; ++s) {
    admitted a;
    a.sampling.seed = random();
    a.sampling.temperature = s % 5 ? 1.5f : 0.0f;
    auto& biases = a.sampling.logit_bias;
    if (s % 4 == 1) biases = {{static_cast<token_id>(random() % vocab), 4.0f}};
    if (s % 4 > 1) {
      for (std::uint32_t t = 0; t < vocab; ++t)
        if (t % n_slots != s) biases.push_back({static_cast<token_id>(t), -1000.0f});
      BOOST_TEST_REQUIRE(biases.size() <= slot_admissions::max_biases);
      while (biases.size() < slot_admissions::max_biases) biases.push_back({static_cast<token_id>(vocab), 50.0f});
      std::ranges::shuffle(biases, random);
    }
    if (s % 3 == 0) a.sampling.frequency_penalty = 1.5f, a.sampling.repetition_penalty = 1.3f;
    a.prompt = random_ids(1 + random() % 9, vocab, random);
    a.history = random_ids(random() % 300, vocab, random);
    out.push_back(std::move(a));
  }
  return out;
}

void admit(backend_driver& d, slot_id slot, const admitted& a) {
  d.admit(slot, a.sampling, a.history);
  d.plan.admits.back().prompt_length = static_cast<std::uint32_t>(a.history.size() / 2);
  d.chunk(slot, 0, a.prompt, model::row_output::sample_logprobs);
}

gpu::gpu_options options() {
  gpu::gpu_options o = small(kernels::dtype::bf16, kernels::gpu::kv_type::bf16);
  o.deterministic = true;  // so that a row beside others draws what it draws alone
  return o;
}

}  // namespace

// Twice through the same staging memory, the second time while a step is on the card.
BOOST_AUTO_TEST_CASE(slots_admitted_together_draw_what_they_draw_alone) {
  const auto m = model::open_model(data("llama3-rope")).value();
  driver alone(m, options()), together(m, options());
  const std::uint32_t vocab = m->config.vocab;
  constexpr std::size_t n_tokens = slot_admissions::turns;  // plans, after which a turn comes again
  std::mt19937 random(21);
  std::vector<admitted> last;
  std::vector<std::vector<drawn>> got(n_slots);
  const auto collect = [&] {
    together.finish();
    for (const auto& r : together.done().rows) got[r.slot].push_back({r.token, r.flags, r.logprob});
  };
  const auto compare = [&] {
    for (slot_id s = 0; s < n_slots; ++s) BOOST_TEST_CONTEXT("slot " << s) {
        std::vector<drawn> want;
        admit(alone, s, last[s]);
        for (std::size_t i = 0; i < n_tokens; ++i) {
          if (i > 0) {
            alone.decode(s, static_cast<std::uint32_t>(last[s].prompt.size() + i - 1));
            alone.plan.rows.back().output = model::row_output::sample_logprobs;
          }
          alone.step();
          for (const auto& r : alone.done().rows) want.push_back({r.token, r.flags, r.logprob});
        }
        alone.release(s);
        alone.step();
        BOOST_TEST(got[s] == want, boost::test_tools::per_element());
        for (const drawn& x : got[s]) {
          BOOST_TEST(x.flags == 0u);
          if (last[s].sampling.logit_bias.size() == slot_admissions::max_biases)
            BOOST_TEST(static_cast<slot_id>(x.token) % n_slots == s);
        }
        got[s].clear();
      }
  };
  for (int round = 0; round < 2; ++round) {
    const auto now = all_admitted(vocab, random);
    for (slot_id s = 0; round > 0 && s < n_slots; ++s) together.release(s);
    for (slot_id s = 0; s < n_slots; ++s) {
      const slot_id slot = (s * 7 + 5) % n_slots;
      admit(together, slot, now[slot]);
    }
    const auto room = slot_admissions::room_of(together.backend->shape());
    BOOST_TEST(slot_admissions::fitting(together.plan.admits, room) < n_slots);
    together.launch();
    if (round > 0) {
      collect();
      compare();
    }
    last = now;
    collect();
    for (std::size_t i = 1; i < n_tokens; ++i) {
      for (slot_id s = 0; s < n_slots; ++s) {
        together.decode(s, static_cast<std::uint32_t>(last[s].prompt.size() + i - 1));
        together.plan.rows.back().output = model::row_output::sample_logprobs;
      }
      together.launch();
      if (round == 0 && i + 1 == n_tokens) break;  // the next admissions are launched meanwhile
      collect();
    }
  }
  compare();
}

// The launch waits for a step whose mask only the launching thread can hand over.
BOOST_AUTO_TEST_CASE(admissions_in_pieces_wait_for_a_step_that_waits_for_its_mask) {
  using namespace std::chrono_literals;
  const auto m = model::open_model(data("llama3-rope")).value();
  const auto masks = std::make_shared<test_masks>();
  gpu::gpu_options o = options();
  o.mask_patience = 10'000ms;
  driver d(m, o, masks);
  const std::uint32_t vocab = m->config.vocab;
  std::mt19937 random(22);
  const auto all = all_admitted(vocab, random);
  d.admit(n_slots, {});
  d.chunk(n_slots, 0, all[0].prompt, model::row_output::sample_logprobs);
  d.gate(1);
  const auto mask = masks->add(1, vocab);
  d.launch();
  const std::jthread later([mask, vocab] {
    std::this_thread::sleep_for(30ms);
    fill(*mask, token_set(vocab, true));
    mask->set_ready();
  });
  for (slot_id s = 0; s < n_slots; ++s) admit(d, s, all[s]);
  d.launch();
  BOOST_TEST(d.finish().size() == 1u);
  BOOST_TEST(d.done().rows[0].flags == 0u);
  BOOST_TEST(d.finish().size() == n_slots);
}
