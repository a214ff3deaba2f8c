#include "src/gpu/step_writer.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <random>

#include "src/gpu/rank_plan.hpp"

/// The writer knows no device: these cases need no card.
using namespace troupe;
using namespace troupe::gpu;
namespace g = kernels::gpu;

BOOST_AUTO_TEST_SUITE(step_writers)

BOOST_AUTO_TEST_CASE(what_draws_comes_first_and_the_inputs_say_what_the_plan_says) {
  model::rank_shape shape;
  shape.vocab = 1000;
  shape.max_model_len = 4096;
  shape.max_slots = 32;
  shape.max_batched_tokens = 512;
  shape.n_pages = {32 * 4096 / page_tokens};
  std::mt19937 rng(25);
  step_writer writer(shape);
  std::uint64_t runs = 0;
  std::size_t n_mixed = 0;
  for (int round = 0; round < 200; ++round) {
    model::slot_table table(shape, 0, {.gates = true});
    model::plan_builder b;
    const std::uint32_t n_rows = 1 + rng() % shape.max_slots;
    const bool decodes = round % 2 == 0;
    std::uint32_t left = shape.max_batched_tokens - n_rows;
    for (std::uint32_t i = 0; i < n_rows; ++i) {
      const slot_id slot = (i * 5 + 3) % shape.max_slots;
      b.admit(slot, {}, 7);
      model::plan_row r{};
      r.slot = slot;
      r.kind = model::row_kind::chunk;
      r.n_tokens = decodes ? 1 : 1 + rng() % std::min(60u, left + 1);
      left -= r.n_tokens - 1;
      r.position = rng() % (shape.max_model_len - r.n_tokens);
      r.token_offset = rng() % 100;
      r.output = static_cast<model::row_output>(decodes ? 1 + rng() % 2 : rng() % 4);
      if ((r.output == model::row_output::sample || r.output == model::row_output::sample_logprobs) && rng() % 4 == 0)
        r.gate = model::row_gate::mask;
      b.rows.push_back(r);
      for (std::uint32_t p = 0; p * page_tokens < r.position + r.n_tokens; ++p)
        b.deltas.push_back({slot, 0, p, slot * (shape.max_model_len / page_tokens) + p});
    }
    for (int i = 0; i < 200; ++i) b.tokens.push_back(static_cast<token_id>(rng() % shape.vocab));
    const auto plan = b.build(1 + round);
    BOOST_REQUIRE(table.apply(plan->view()).ok());
    const model::step_batch& batch = table.batch();

    const bucket size{512, 512, 32};
    const g::attention_shape attention{8, 2, 64, 512, 32, shape.max_model_len, 0, 58};
    const step_layout l = step_layout_of(size, attention);
    const std::vector<g::page_entry> entries{{1, 2, 3}, {4, 5, 6}};
    std::vector<std::byte> to(l.bytes);
    writer.order(plan->view(), batch);
    writer.divide(attention, batch);
    writer.write(plan->view(), batch, entries, l, to.data());

    const auto* const tokens = step_layout::at<g::input_token>(to.data(), l.tokens);
    const auto* const positions = step_layout::at<std::uint32_t>(to.data(), l.positions);
    const auto* const slots = step_layout::at<std::uint32_t>(to.data(), l.slots);
    const auto* const gather = step_layout::at<std::uint32_t>(to.data(), l.gather);
    const auto* const draws = step_layout::at<g::sample_row>(to.data(), l.sample_rows);
    std::vector<std::uint32_t> wanted;  // tokens whose logits are wanted: those that draw, then the others
    std::uint32_t token = 0, n_draws = 0;
    std::vector<std::uint32_t> others;
    for (const model::plan_row& r : b.rows) {
      for (std::uint32_t i = 0; i < r.n_tokens; ++i) {
        BOOST_REQUIRE_EQUAL(tokens[token + i], b.tokens[r.token_offset + i]);
        BOOST_REQUIRE_EQUAL(positions[token + i], r.position + i);
        BOOST_REQUIRE_EQUAL(slots[token + i], r.slot);
        if (r.output == model::row_output::logits) others.push_back(token + i);
      }
      token += r.n_tokens;
      if (r.output != model::row_output::sample && r.output != model::row_output::sample_logprobs) continue;
      const g::sample_row& d = draws[n_draws];
      const std::uint32_t flags = (r.output == model::row_output::sample_logprobs ? g::sample_logprob : 0u) |
                                  (r.gate == model::row_gate::mask ? g::sample_masked : 0u);
      BOOST_REQUIRE(d.slot == r.slot && d.position == r.position + r.n_tokens && d.logits_row == n_draws &&
                    d.flags == flags && d.gate_word == n_draws && d.mask_row == n_draws);
      BOOST_REQUIRE_EQUAL(writer.drawn()[n_draws], r.slot);
      wanted.push_back(token - 1);
      ++n_draws;
    }
    wanted.insert(wanted.end(), others.begin(), others.end());
    n_mixed += n_draws > 0 && !others.empty();
    BOOST_REQUIRE_EQUAL(writer.outputs().size(), wanted.size());
    BOOST_REQUIRE(std::equal(wanted.begin(), wanted.end(), gather));
    for (std::size_t i = 0; i < wanted.size(); ++i)
      BOOST_REQUIRE_EQUAL(batch.outputs[writer.outputs()[i]].token, wanted[i]);
    const auto* const written = step_layout::at<g::page_entry>(to.data(), l.page_entries);
    BOOST_REQUIRE(written[1].slot == 4 && written[1].index == 5 && written[1].page == 6);

    std::vector<g::row_span> rows;
    for (const model::step_row& r : batch.rows) rows.push_back({r.slot, r.position, r.n_tokens, r.first});
    std::vector<g::attention_item> items;
    g::plan_attention(attention, rows, items);
    BOOST_REQUIRE(std::memcmp(to.data() + l.items, items.data(), items.size() * sizeof items[0]) == 0);
    const g::step_header& h = *step_layout::header(to.data());
    BOOST_REQUIRE(h.seq == plan->view().seq() && h.run == ++runs && h.n_tokens == token && h.n_rows == n_rows &&
                  h.n_outputs == wanted.size() && h.n_draws == n_draws && h.n_page_entries == entries.size() &&
                  h.n_attention_items == items.size());
  }
  BOOST_TEST(n_mixed > 30u);
}

BOOST_AUTO_TEST_CASE(steps_fit_the_memory_of_the_largest_and_rows_that_decode_find_their_pages) {
  for (const std::uint32_t most : {8u, 64u, 100u, 256u, 257u, 300u, 1000u, 2048u, 8192u})
    for (const std::uint32_t slots : {1u, 8u, 200u, 4096u}) {
      if (slots > most) continue;
      const auto layout = [&](std::uint32_t tokens, std::uint32_t draws) {
        const g::attention_shape shape{32, 8, 128, tokens, std::min(tokens, slots), 4096, 0, 132};
        return step_layout_of({tokens, tokens, draws}, shape);
      };
      const std::uint32_t room = layout(most, slots).bytes;
      for (std::uint32_t n = 1; n <= most; ++n) {
        if (token_bucket(n, most) != n) continue;
        const step_layout l = layout(n, std::min(n, slots));
        BOOST_TEST(l.bytes <= room, n << " tokens of " << most << ", " << slots << " slots");
        if (n <= std::min(slots, 256u)) BOOST_TEST(l.max_page_entries >= n);
      }
    }
}

BOOST_AUTO_TEST_SUITE_END()
