#pragma once
#include <string>
#include <vector>

/// Valid bodies that the tests start from; the mutation tests break them.
inline std::vector<std::string> chat_bodies() {
  return {
      R"({"model":"m","messages":[{"role":"user","content":"Hi"}]})",
      R"({"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}],
          "stream":true,"stream_options":{"include_usage":true},"temperature":0.7,"top_p":0.9,"top_k":40,"min_p":0.05,"n":3,"seed":42,
          "stop":["\n\n","END"],"stop_token_ids":[2,7],"max_tokens":10,"max_completion_tokens":20,"frequency_penalty":0.5,"presence_penalty":-0.5,
          "repetition_penalty":1.1,"logit_bias":{"50256":-100,"7":1.5},"ignore_eos":true,"skip_special_tokens":false,
          "include_stop_str_in_output":true,"priority":-3,"user":"u","store":false,"metadata":{"a":"b"},"service_tier":"auto"})",
      R"({"messages":[{"role":"user","content":"2+2?","name":"Ann"},
          {"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"add","arguments":"{\"a\": 2, \"b\": [1.0, \"x\"]}"}}]},
          {"role":"tool","tool_call_id":"c1","content":"4"}],
          "tools":[{"type":"function","function":{"name":"add","description":"d","parameters":{"type":"object","properties":{"b":{},"a":{}}}}}],
          "tool_choice":"auto","chat_template_kwargs":{"enable_thinking":false},"add_generation_prompt":true})",
  };
}

inline std::vector<std::string> completion_bodies() {
  return {
      R"({"model":"m","prompt":"Once upon a time","max_tokens":5,"temperature":0,"stop":"."})",
      R"({"prompt":[1,2,3],"n":2,"stream":true,"echo":false,"logprobs":null,"best_of":1,"suffix":null})",
      R"({"prompt":["a","b"],"n":2,"max_tokens":1})",
      R"({"prompt":[[1],[2,3]],"seed":-5})",
  };
}
