#include <boost/test/unit_test.hpp>

#include <boost/json.hpp>
#include <string>

#include "src/wire/request_parser.hpp"
#include "tests/wire/corpus.hpp"

using namespace troupe;
namespace json = boost::json;

namespace {

wire::api_request good_chat(std::string body) {
  wire::request_parser p;
  auto r = p.chat(body);
  BOOST_REQUIRE_MESSAGE(r.ok(), (r.ok() ? "" : r.error().message));
  return *r;
}
wire::api_request good_completion(std::string body) {
  wire::request_parser p;
  auto r = p.completion(body);
  BOOST_REQUIRE_MESSAGE(r.ok(), (r.ok() ? "" : r.error().message));
  return *r;
}
wire::api_error bad_chat(std::string body) {
  wire::request_parser p;
  auto r = p.chat(body);
  BOOST_REQUIRE_MESSAGE(!r.ok(), "accepted: " << body);
  BOOST_TEST(r.error().status == 400);
  BOOST_TEST(r.error().type == "invalid_request_error");
  return r.error();
}
wire::api_error bad_completion(std::string body) {
  wire::request_parser p;
  auto r = p.completion(body);
  BOOST_REQUIRE_MESSAGE(!r.ok(), "accepted: " << body);
  BOOST_TEST(r.error().status == 400);
  return r.error();
}
std::string with(const std::string& fields) { return R"({"messages":[{"role":"user","content":"x"}],)" + fields + "}"; }
const chat_prompt& chat_of(const wire::api_request& q) { return std::get<chat_prompt>(q.prompts.at(0)); }

}  // namespace

BOOST_AUTO_TEST_CASE(sampling_that_a_body_leaves_out_is_the_parsers) {
  sampling_params mine;
  mine.temperature = 0.6f;
  mine.top_k = 20;
  wire::request_parser p({}, mine);
  std::string body = with(R"("top_k":0)");
  const auto q = *p.chat(body);
  BOOST_TEST(q.common.sampling.temperature == 0.6f);
  BOOST_TEST(q.common.sampling.top_k == 0);
  body = R"({"prompt":"x","temperature":1})";
  const auto c = *p.completion(body);
  BOOST_TEST(c.common.sampling.temperature == 1.0f);
  BOOST_TEST(c.common.sampling.top_k == 20);
}

BOOST_AUTO_TEST_CASE(defaults_are_those_of_other_servers) {
  auto q = good_chat(chat_bodies()[0]);
  BOOST_TEST(q.model == "m");
  BOOST_TEST(!q.stream);
  BOOST_TEST(q.n == 1u);
  BOOST_TEST(!q.common.max_tokens.has_value());
  BOOST_TEST(q.common.sampling.temperature == 1.0f);
  BOOST_TEST(q.common.sampling.top_p == 1.0f);
  BOOST_TEST(!q.common.sampling.seed.has_value());
  BOOST_TEST(q.common.skip_special_tokens);
  BOOST_TEST(chat_of(q).add_generation_prompt);
  BOOST_TEST(chat_of(q).messages.at(0).role == "user");
  BOOST_TEST(chat_of(q).messages.at(0).content == "Hi");
  BOOST_TEST(chat_of(q).messages.at(0).extra_json.empty());

  auto c = good_completion(R"({"prompt":"x"})");
  BOOST_TEST(*c.common.max_tokens == 16u);
  BOOST_TEST(std::get<text_prompt>(c.prompts.at(0)).add_special_tokens);
}

BOOST_AUTO_TEST_CASE(every_field_reaches_the_request) {
  auto q = good_chat(chat_bodies()[1]);
  const auto& s = q.common.sampling;
  BOOST_TEST(q.stream);
  BOOST_TEST(q.include_usage);
  BOOST_TEST(q.n == 3u);
  BOOST_TEST(s.temperature == 0.7f);
  BOOST_TEST(s.top_p == 0.9f);
  BOOST_TEST(s.top_k == 40);
  BOOST_TEST(s.min_p == 0.05f);
  BOOST_TEST(*s.seed == 42u);
  BOOST_TEST(s.frequency_penalty == 0.5f);
  BOOST_TEST(s.presence_penalty == -0.5f);
  BOOST_TEST(s.repetition_penalty == 1.1f);
  BOOST_REQUIRE(s.logit_bias.size() == 2u);
  BOOST_TEST(s.logit_bias[0].first == 7);
  BOOST_TEST(s.logit_bias[0].second == 1.5f);
  BOOST_TEST(s.logit_bias[1].second == -100.0f);
  BOOST_TEST(*q.common.max_tokens == 20u);
  BOOST_TEST(q.common.stop == (std::vector<std::string>{"\n\n", "END"}), boost::test_tools::per_element());
  BOOST_TEST(q.common.stop_token_ids == (std::vector<std::int32_t>{2, 7}), boost::test_tools::per_element());
  BOOST_TEST(q.common.ignore_eos);
  BOOST_TEST(!q.common.skip_special_tokens);
  BOOST_TEST(q.common.include_stop_in_output);
  BOOST_TEST(q.common.priority == -3);
  BOOST_TEST(chat_of(q).messages.at(1).content == "a\nb");
}

BOOST_AUTO_TEST_CASE(a_choice_is_numbered_within_its_prompt) {
  auto q = good_completion(R"({"prompt":["a","b"],"n":2,"seed":9,"request_id":"r"})");
  BOOST_REQUIRE(q.choices() == 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    auto c = q.choice(i);
    BOOST_TEST(std::get<text_prompt>(c.prompt).text == (i < 2 ? "a" : "b"));
    BOOST_TEST(c.sampling.choice == i % 2);
    BOOST_TEST(*c.sampling.seed == 9u);
    BOOST_TEST(c.id == "r-" + std::to_string(i));
  }
  for (std::size_t i = 0; i < 4; ++i) BOOST_TEST(std::get<text_prompt>(q.take_choice(i).prompt).text == (i < 2 ? "a" : "b"));
}

BOOST_AUTO_TEST_CASE(messages_keep_what_a_template_may_read) {
  auto q = good_chat(chat_bodies()[2]);
  const auto& m = chat_of(q).messages;
  BOOST_REQUIRE(m.size() == 3u);
  BOOST_TEST(json::parse(m[0].extra_json) == json::parse(R"({"name":"Ann"})"));
  BOOST_TEST(m[1].content.empty());
  // arguments have become an object, null fields are gone
  BOOST_TEST(json::parse(m[1].extra_json) ==
             json::parse(R"({"tool_calls":[{"id":"c1","type":"function","function":{"name":"add","arguments":{"a":2,"b":[1.0,"x"]}}}]})"));
  BOOST_TEST(json::parse(m[2].extra_json) == json::parse(R"({"tool_call_id":"c1"})"));
  BOOST_TEST(chat_of(q).tools_json.find(R"("properties":{"b":{},"a":{}})") != std::string::npos, "key order is the client's");
  BOOST_TEST(json::parse(chat_of(q).template_vars_json) == json::parse(R"({"enable_thinking":false})"));
}

BOOST_AUTO_TEST_CASE(prompts_come_in_four_shapes) {
  BOOST_TEST(std::get<text_prompt>(good_completion(R"({"prompt":""})").prompts.at(0)).text.empty());
  BOOST_TEST(std::get<1>(good_completion(R"({"prompt":[5,0,7.0]})").prompts.at(0)) == (std::vector<std::int32_t>{5, 0, 7}),
             boost::test_tools::per_element());
  BOOST_TEST(good_completion(R"({"prompt":["a","b","c"]})").prompts.size() == 3u);
  auto q = good_completion(R"({"prompt":[[1],[2,3]]})");
  BOOST_TEST(std::get<1>(q.prompts.at(1)) == (std::vector<std::int32_t>{2, 3}), boost::test_tools::per_element());
  BOOST_TEST(!std::get<text_prompt>(good_completion(R"({"prompt":"x","add_special_tokens":false})").prompts.at(0)).add_special_tokens);

  BOOST_TEST(bad_completion(R"({"prompt":[]})").param == "prompt");
  BOOST_TEST(bad_completion(R"({"prompt":[[]]})").param == "prompt[0]");
  BOOST_TEST(bad_completion(R"({"prompt":[1,"a"]})").param == "prompt[1]");
  BOOST_TEST(bad_completion(R"({"prompt":["a",1]})").param == "prompt[1]");
  BOOST_TEST(bad_completion(R"({"prompt":[[1],["a"]]})").param == "prompt[1][0]");
  BOOST_TEST(bad_completion(R"({"prompt":[-1]})").param == "prompt[0]");
  BOOST_TEST(bad_completion(R"({"prompt":[2147483648]})").param == "prompt[0]");
  BOOST_TEST(bad_completion(R"({"prompt":null})").param == "prompt");
  BOOST_TEST(bad_completion(R"({"model":"m"})").param == "prompt");
}

BOOST_AUTO_TEST_CASE(a_type_error_names_the_field_and_what_was_expected) {
  auto e = bad_chat(with(R"("temperature":"hot")"));
  BOOST_TEST(e.param == "temperature");
  BOOST_TEST(e.message == "temperature: got a string: send a number from 0 to 100");
  BOOST_TEST(bad_chat(with(R"("n":1.5)")).message == "n: got a number: send an integer from 1 to 128");
  BOOST_TEST(bad_chat(with(R"("stream":1)")).message == "stream: got a number: send true or false");
}

BOOST_AUTO_TEST_CASE(values_out_of_range_are_refused_with_the_fields_path) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("temperature":-0.1)", "temperature"}, {R"("temperature":1e300)", "temperature"}, {R"("top_p":0)", "top_p"},
      {R"("top_p":1e-60)", "top_p"}, {R"("top_p":1.01)", "top_p"}, {R"("top_k":-2)", "top_k"}, {R"("min_p":1)", "min_p"},
      {R"("n":0)", "n"}, {R"("n":129)", "n"}, {R"("n":99999999999999999999)", ""}, {R"("n":9223372036854775808)", "n"},
      {R"("seed":1e300)", "seed"}, {R"("max_tokens":0)", "max_tokens"}, {R"("max_tokens":4294967296)", "max_tokens"},
      {R"("max_completion_tokens":-1)", "max_completion_tokens"}, {R"("frequency_penalty":2.1)", "frequency_penalty"},
      {R"("presence_penalty":-2.1)", "presence_penalty"}, {R"("repetition_penalty":0)", "repetition_penalty"},
      {R"("logit_bias":{"x":1})", "logit_bias.x"}, {R"("logit_bias":{"-1":1})", "logit_bias.-1"}, {R"("logit_bias":{"1":"2"})", "logit_bias.1"},
      {R"("logit_bias":{"1":101})", "logit_bias.1"}, {R"("logit_bias":{"7":1,"07":2})", "logit_bias"}, {R"("logit_bias":{"99999999999":1})", "logit_bias.99999999999"},
      {R"("stop":"")", "stop"}, {R"("stop":["a",""])", "stop[1]"}, {R"("stop":["a",1])", "stop[1]"},
      {R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])", "stop"},
      {R"("stop_token_ids":[1,-1])", "stop_token_ids[1]"}, {R"("stop_token_ids":5)", "stop_token_ids"}, {R"("priority":2147483648)", "priority"},
      {R"("stream_options":{"x":1},"stream":true)", "stream_options.x"}, {R"("stream_options":{"include_usage":true})", "stream_options"},
      {R"("stream_options":[],"stream":true)", "stream_options"},
  };
  for (auto& [field, param] : cases) {
    auto e = bad_chat(with(field));
    BOOST_TEST(e.param == param, field << " → " << e.message);
  }
  BOOST_TEST(bad_chat(with("\"stop\":\"" + std::string(257, 'x') + "\"")).param == "stop");
}

BOOST_AUTO_TEST_CASE(null_means_absent) {
  auto q = good_chat(with(R"("temperature":null,"top_p":null,"top_k":null,"min_p":null,"n":null,"seed":null,"stop":null,"max_tokens":null,
      "max_completion_tokens":null,"logit_bias":null,"stream":null,"stream_options":null,"tools":null,"tool_choice":null,"logprobs":null,
      "response_format":null,"user":null,"stop_token_ids":null,"priority":null,"chat_template_kwargs":null,"add_generation_prompt":null,"model":null)"));
  BOOST_TEST(q.common.sampling.temperature == 1.0f);
  BOOST_TEST(q.n == 1u);
}

BOOST_AUTO_TEST_CASE(what_would_change_the_output_is_refused_by_name_and_what_asks_for_nothing_is_not) {
  for (const char* field : {R"("logprobs":true)", R"("top_logprobs":5)", R"("echo":true)", R"("best_of":2)", R"("min_tokens":3)",
                            R"("response_format":{"type":"json_object"})", R"("guided_json":{})", R"("temprature":1)", R"("bad_words":["x"])",
                            R"("tool_choice":"required")", R"("tool_choice":{"type":"function","function":{"name":"f"}})", R"("audio":{})",
                            R"("modalities":["audio"])", R"("continue_final_message":true)", R"("use_beam_search":true)", R"("chat_template":"x")"}) {
    auto e = bad_chat(with(field));
    const std::string name = std::string(field).substr(1, std::string(field).find('"', 1) - 1);
    BOOST_TEST(e.param.rfind(name, 0) == 0u, field << " → " << e.param);
  }
  BOOST_TEST(bad_completion(R"({"prompt":"x","logprobs":0})").param == "logprobs");
  BOOST_TEST(bad_completion(R"({"prompt":"x","suffix":"y"})").param == "suffix");
  BOOST_TEST(bad_completion(R"({"prompt":"x","messages":[]})").param == "messages");
  good_chat(with(R"("logprobs":false,"top_logprobs":0,"echo":false,"best_of":1,"min_tokens":0,"response_format":{"type":"text"},"guided_json":null,
      "bad_words":[],"tool_choice":"none","modalities":["text"],"continue_final_message":false,"use_beam_search":false,"parallel_tool_calls":true,
      "tools":[],"user":{"any":"thing"},"safety_identifier":"s","prompt_cache_key":"k","logit_bias":{}, "seed":-1)"));
  good_completion(R"({"prompt":"x","logprobs":null,"suffix":"","echo":false})");
}

BOOST_AUTO_TEST_CASE(malformed_messages_are_named_by_their_path) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"messages":[]})", "messages"}, {R"({})", "messages"}, {R"({"messages":"hi"})", "messages"}, {R"({"messages":[1]})", "messages[0]"},
      {R"({"messages":[{"content":"x"}]})", "messages[0].role"}, {R"({"messages":[{"role":7,"content":"x"}]})", "messages[0].role"},
      {R"({"messages":[{"role":"user"}]})", "messages[0].content"}, {R"({"messages":[{"role":"user","content":null}]})", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":5}]})", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":"a"},{"role":"user","content":["x"]}]})", "messages[1].content[0]"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]})", "messages[0].content[0].type"},
      {R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})", "messages[0].content[0].text"},
      {R"({"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"nope"}}]}]})", "messages[0].tool_calls[0].function.arguments"},
      {R"({"messages":[{"role":"assistant","tool_calls":[{"function":{"arguments":"{}"}}]}]})", "messages[0].tool_calls[0].function.name"},
      {R"({"messages":[{"role":"assistant","tool_calls":{}}]})", "messages[0].tool_calls"},
  };
  for (auto& [body, param] : cases) {
    auto e = bad_chat(body);
    BOOST_TEST(e.param == param, body << " → " << e.message);
  }
  BOOST_TEST(bad_chat(with(R"("tools":[{"type":"function","function":{}}])")).param == "tools[0].function.name");
  BOOST_TEST(bad_chat(with(R"("tools":{})")).param == "tools");
  good_chat(R"({"messages":[{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":""}}]}]})");
}

BOOST_AUTO_TEST_CASE(what_is_not_one_json_object_in_utf8_is_refused) {
  const auto message = [](std::string body) { return bad_chat(std::move(body)).message; };
  BOOST_TEST(message("") == "the body is not valid JSON: it is empty");
  BOOST_TEST(message("   ").find("not valid JSON") != std::string::npos);
  BOOST_TEST(message("[]").find("send a JSON object") != std::string::npos);
  BOOST_TEST(message("\"x\"").find("send a JSON object") != std::string::npos);
  BOOST_TEST(message(chat_bodies()[0] + "x").find("not valid JSON") != std::string::npos);
  BOOST_TEST(message(chat_bodies()[0] + chat_bodies()[0]).find("not valid JSON") != std::string::npos);
  BOOST_TEST(message(with("\"user\":\"\xff\"")).find("not UTF-8") != std::string::npos);
  BOOST_TEST(message(with("\"user\":\"\xc0\x80\"")).find("not UTF-8") != std::string::npos);
  BOOST_TEST(message(with(R"("user":"\ud800")")).find("not valid JSON") != std::string::npos);
  BOOST_TEST(message(with("\"temperature\":NaN")).find("not valid JSON") != std::string::npos);
  BOOST_TEST(message(with("\"temperature\":Infinity")).find("not valid JSON") != std::string::npos);
  BOOST_TEST(message(with("\"temperature\":1e999")).find("number") != std::string::npos);
  BOOST_TEST(message(with("\"temperature\":" + std::string(5000, '9'))).find("number") != std::string::npos);
  BOOST_TEST(message(with("\"temperature\":01")).find("not valid JSON") != std::string::npos);
  BOOST_TEST(message(with("\"user\":" + std::string(100, '[') + std::string(100, ']'))).find("64 levels") != std::string::npos);
  BOOST_TEST(message(std::string(1000000, '[')).find("not valid JSON") != std::string::npos);
  std::string bomb;
  for (int i = 0; i < 100000; ++i) bomb += "{\"a\":";
  BOOST_TEST(message(bomb).find("not valid JSON") != std::string::npos);
  BOOST_TEST(message("\xef\xbb\xbf" + chat_bodies()[0]).find("not valid JSON") != std::string::npos);
  good_chat(with("\"user\":" + std::string(60, '[') + std::string(60, ']')));
}

BOOST_AUTO_TEST_CASE(a_repeated_key_is_refused_wherever_it_stands) {
  BOOST_TEST(bad_chat(with(R"("n":1,"n":1)")).param == "n");
  BOOST_TEST(bad_chat(with(R"("n":1,"\u006e":1)")).param == "n");
  BOOST_TEST(bad_chat(R"({"messages":[{"role":"user","content":"x","role":"system"}]})").param == "messages[0].role");
  BOOST_TEST(bad_chat(with(R"("chat_template_kwargs":{"a":[{"b":1,"b":2}]})")).param == "chat_template_kwargs.a[0].b");
}

BOOST_AUTO_TEST_CASE(choices_of_all_prompts_are_bounded) {
  BOOST_TEST(bad_completion(R"({"prompt":["a","b"],"n":65})").param == "n");
  good_completion(R"({"prompt":["a","b"],"n":64})");
  std::string many = R"({"prompt":["a")";
  for (int i = 0; i < 128; ++i) many += ",\"a\"";
  BOOST_TEST(bad_completion(many + "]}").param == "prompt");
  BOOST_TEST(bad_completion(R"({"n":128,"prompt":")" + std::string(600000, 'x') + "\"}").param == "n");
}

BOOST_AUTO_TEST_CASE(tokenize_takes_the_spellings_of_other_servers_with_their_defaults) {
  wire::request_parser p;
  const auto read = [&](std::string body) {
    auto r = p.tokenize(body);
    BOOST_REQUIRE_MESSAGE(r.ok(), (r.ok() ? "" : r.error().message));
    return *r;
  };
  auto vllm = read(R"({"model":"m","prompt":"x"})");
  BOOST_TEST(std::get<text_prompt>(vllm.prompt).text == "x");
  BOOST_TEST(std::get<text_prompt>(vllm.prompt).add_special_tokens);
  auto llama = read(R"({"content":"y"})");
  BOOST_TEST(std::get<text_prompt>(llama.prompt).text == "y");
  BOOST_TEST(!std::get<text_prompt>(llama.prompt).add_special_tokens);
  BOOST_TEST(read(R"({"content":"y","add_special":true})").add_special_tokens);
  BOOST_TEST(!read(R"({"text":"y","add_special_tokens":false,"parse_special":false})").parse_special);
  auto chat = read(R"({"messages":[{"role":"user","content":"x"}],"add_generation_prompt":false})");
  BOOST_TEST(!std::get<chat_prompt>(chat.prompt).add_generation_prompt);
  BOOST_TEST(!chat.add_special_tokens);
  const auto param = [&](std::string body) {
    auto r = p.tokenize(body);
    BOOST_REQUIRE(!r.ok());
    return r.error().param;
  };
  BOOST_TEST(param("{}") == "prompt");
  BOOST_TEST(param(R"({"prompt":"x","content":"y"})") == "content");
  BOOST_TEST(param(R"({"prompt":5})") == "prompt");
  BOOST_TEST(param(R"({"prompt":"x","with_pieces":true})") == "with_pieces");
  BOOST_TEST(param(R"({"prompt":"x","messages":[{"role":"user","content":"x"}]})") == "messages");

  std::string body = R"({"tokens":[1,2,3],"model":null})";
  auto d = p.detokenize(body);
  BOOST_REQUIRE(d.ok());
  BOOST_TEST(d->tokens == (std::vector<std::int32_t>{1, 2, 3}), boost::test_tools::per_element());
  body = R"({"tokens":["a"]})";
  BOOST_TEST(p.detokenize(body).error().param == "tokens[0]");
  body = R"({})";
  BOOST_TEST(p.detokenize(body).error().param == "tokens");
}

BOOST_AUTO_TEST_CASE(a_parser_serves_many_bodies_of_many_sizes) {
  wire::request_parser p;
  for (std::size_t size : {10u, 100000u, 10u, 3000000u, 10u}) {
    std::string body = R"({"prompt":")" + std::string(size, 'x') + "\"}";
    auto r = p.completion(body);
    BOOST_REQUIRE(r.ok());
    BOOST_TEST(std::get<text_prompt>(r->prompts[0]).text.size() == size);
    std::string broken = R"({"prompt":)" + std::string(size, '[') + "}";
    BOOST_TEST(!p.completion(broken).ok());
  }
}
