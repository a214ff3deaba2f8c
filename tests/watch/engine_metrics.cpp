#include <boost/test/unit_test.hpp>

#include <map>
#include <sstream>
#include <thread>
#include <vector>

#include "src/watch/engine_metrics.hpp"

using namespace troupe;

namespace {

// name{labels} → value, of every sample line.
std::map<std::string, std::string> samples(const std::string& text) {
  std::map<std::string, std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    const auto space = line.rfind(' ');
    BOOST_REQUIRE(space != std::string::npos);
    BOOST_TEST(out.emplace(line.substr(0, space), line.substr(space + 1)).second, "twice: " << line);
  }
  return out;
}

const std::string common = "{model_name=\"m\",engine=\"0\"";

}  // namespace

BOOST_AUTO_TEST_CASE(names_and_labels_are_those_that_gateways_ask_for) {
  watch::engine_metrics m({.model_name = "m", .max_model_len = 2048, .n_pages = 128});
  m.requests_running.set(3);
  m.requests_waiting.set(2);
  m.kv_cache_usage.set(0.25);
  m.prompt_tokens.add(100);
  m.generation_tokens.add(7);
  m.finished(finish_reason::stop);
  m.finished(finish_reason::cancelled);
  m.finished(finish_reason::cancelled);
  m.finished(finish_reason::none);
  auto s = samples(m.expose());
  BOOST_TEST(s.at("vllm:num_requests_running" + common + "}") == "3");
  BOOST_TEST(s.at("vllm:num_requests_waiting" + common + "}") == "2");
  BOOST_TEST(s.at("vllm:kv_cache_usage_perc" + common + "}") == "0.25");
  BOOST_TEST(s.at("vllm:prompt_tokens_total" + common + "}") == "100");
  BOOST_TEST(s.at("vllm:generation_tokens_total" + common + "}") == "7");
  BOOST_TEST(s.at("vllm:num_preemptions_total" + common + "}") == "0");
  BOOST_TEST(s.at("vllm:request_success_total" + common + ",finished_reason=\"stop\"}") == "1");
  BOOST_TEST(s.at("vllm:request_success_total" + common + ",finished_reason=\"abort\"}") == "2");
  BOOST_TEST(s.at("vllm:request_success_total" + common + ",finished_reason=\"error\"}") == "0");
  BOOST_TEST(s.at("vllm:request_prompt_tokens_bucket" + common + ",le=\"2000\"}") == "0");
  BOOST_TEST(s.count("vllm:request_prompt_tokens_bucket" + common + ",le=\"5000\"}") == 0u);
}

BOOST_AUTO_TEST_CASE(a_bucket_holds_what_is_at_or_below_its_bound) {
  watch::engine_metrics m({.model_name = "m", .max_model_len = 16});
  m.time_to_first_token.observe(0.001);
  m.time_to_first_token.observe(0.0011);
  m.time_to_first_token.observe(9999);
  m.inter_token_latency.observe(0.005, 4);
  auto s = samples(m.expose());
  const std::string ttft = "vllm:time_to_first_token_seconds";
  BOOST_TEST(s.at(ttft + "_bucket" + common + ",le=\"0.001\"}") == "1");
  BOOST_TEST(s.at(ttft + "_bucket" + common + ",le=\"0.005\"}") == "2");
  BOOST_TEST(s.at(ttft + "_bucket" + common + ",le=\"2560\"}") == "2");
  BOOST_TEST(s.at(ttft + "_bucket" + common + ",le=\"+Inf\"}") == "3");
  BOOST_TEST(s.at(ttft + "_count" + common + "}") == "3");
  BOOST_TEST(s.at("vllm:inter_token_latency_seconds_count" + common + "}") == "4");
  BOOST_TEST(std::stod(s.at("vllm:inter_token_latency_seconds_sum" + common + "}")) == 0.02, boost::test_tools::tolerance(1e-9));
}

BOOST_AUTO_TEST_CASE(every_family_has_help_and_type_before_its_samples) {
  watch::engine_metrics m({.model_name = "a \"quoted\" \\ name\nof two lines", .max_model_len = 16});
  std::istringstream in(m.expose());
  std::string family;
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("# HELP ", 0) == 0) continue;
    if (line.rfind("# TYPE ", 0) == 0) {
      family = line.substr(7, line.find(' ', 7) - 7);
      continue;
    }
    BOOST_TEST(line.rfind(family, 0) == 0u, line);
    BOOST_TEST(line.find("model_name=\"a \\\"quoted\\\" \\\\ name\\nof two lines\"") != std::string::npos, line);
  }
}

BOOST_AUTO_TEST_CASE(threads_lose_no_count) {
  watch::engine_metrics m({.model_name = "m", .max_model_len = 16});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&m] {
      for (int i = 0; i < 20000; ++i) m.steps.add(), m.step_seconds.observe(0.5), m.requests_running.add(i % 2 ? 1 : -1);
    });
  for (int i = 0; i < 20; ++i) BOOST_TEST(!m.expose().empty());
  for (auto& t : threads) t.join();
  BOOST_TEST(m.steps.value() == 80000u);
  BOOST_TEST(m.step_seconds.total() == 80000u);
  BOOST_TEST(m.step_seconds.sum() == 40000.0);
  BOOST_TEST(m.requests_running.value() == 0.0);
}
