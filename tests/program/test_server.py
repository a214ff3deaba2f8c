"""The server's API from outside: endpoints, answers, streams, refusals; then with a model that writes text."""
import json
import threading
import time
import unittest

from support import CONTEXT, SMOLLM2, TINY, VOCAB, WithServer, ids_of, need_smollm2, run

MESSAGES = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]


class Small(WithServer):
    """Shapes and errors, on a tiny model."""
    options = ("--served-model-name", "tiny", "--max-model-len", CONTEXT)

    def completion(self, prompt="Once upon a time", **fields):
        return self.good("/v1/completions", {"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 8, **fields})

    # ---- what is being served ----

    def test_models(self):
        listed = self.server.get("/v1/models").json
        self.assertEqual(listed["object"], "list")
        self.assertEqual([m["id"] for m in listed["data"]], ["tiny"])
        self.assertEqual(listed["data"][0]["object"], "model")
        self.assertEqual(listed["data"][0]["max_model_len"], CONTEXT)
        self.assertEqual(self.server.get("/v1/models/tiny").json, listed["data"][0])
        missing = self.server.get("/v1/models/other")
        self.assertEqual(missing.status, 404)
        self.check_error(missing)

    def test_health_ready_version(self):
        for path in ("/health", "/ready", "/version"):
            self.assertEqual(self.server.get(path).status, 200, path)
            head = self.server.request("HEAD", path)
            self.assertEqual((head.status, head.body), (200, b""), path)
        self.assertEqual(self.server.get("/version").json["version"], run("--version").stdout.decode().strip())

    def test_metrics(self):
        before = self.server.metrics()
        self.completion(ignore_eos=True)
        after = self.server.metrics()
        self.assertEqual(after["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"], 8)
        self.assertGreater(after["vllm:prompt_tokens_total"], before["vllm:prompt_tokens_total"])
        reply = self.server.get("/metrics")
        self.assertTrue(reply.headers["Content-Type"].startswith("text/plain"))
        families = {line.split()[2] for line in reply.body.decode().splitlines() if line.startswith("# TYPE")}
        for name in ("vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:time_to_first_token_seconds", "vllm:e2e_request_latency_seconds"):
            self.assertIn(name, families)
        self.assertTrue(reply.body.endswith(b"\n"))

    def test_metrics_say_truly_whether_prefixes_are_reused(self):
        prompt = [5, 6, 7] * 40
        self.completion(prompt)
        cached = self.completion(prompt)["usage"]["prompt_tokens_details"]["cached_tokens"]
        (info,) = (name for name in self.server.metrics() if name.startswith("vllm:cache_config_info{"))
        self.assertIn(f'enable_prefix_caching="{cached > 0}"', info)

    # ---- tokens ----

    def test_tokenize_and_detokenize(self):
        want = ids_of(run("tokenize", TINY, stdin="Hello, wörld").stdout)
        o = self.good("/tokenize", {"prompt": "Hello, wörld"})
        self.assertEqual((o["tokens"], o["count"], o["max_model_len"]), (want, len(want), CONTEXT))
        self.assertEqual(self.good("/tokenize", {"prompt": "Hello, wörld", "add_special_tokens": False})["tokens"], want[1:])
        self.assertEqual(self.good("/detokenize", {"tokens": want[1:]})["prompt"], "Hello, wörld")
        chat = self.good("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})
        text = run("template", TINY, "--messages", self.file("m.json", '[{"role":"user","content":"Hi"}]')).stdout
        self.assertEqual(chat["tokens"], ids_of(run("tokenize", TINY, "--no-bos", stdin=text).stdout))
        self.refuse(400, "/detokenize", {"tokens": [VOCAB]}, names=VOCAB)
        self.refuse(400, "/detokenize", {"tokens": [1, "x"]}, param="tokens[1]")

    # ---- answers ----

    def test_a_completion_equals_the_programs(self):
        o = self.completion(max_tokens=24)
        alone = json.loads(run("generate", TINY, "--prompt", "Once upon a time", "-n", 24, "--temperature", 0, "--json").stdout)
        self.assertEqual(o["choices"][0]["text"], alone["text"])
        self.assertEqual(o["choices"][0]["finish_reason"], alone["finish_reason"])
        self.assertEqual({k: o["usage"][k] for k in alone["usage"]}, alone["usage"])
        self.assertEqual((o["object"], o["model"]), ("text_completion", "tiny"))
        self.assertTrue(o["id"].startswith("cmpl-"))
        self.assertAlmostEqual(o["created"], time.time(), delta=60)

    def test_prompts_as_ids_and_as_lists(self):
        ids = ids_of(run("tokenize", TINY, stdin="Once upon a time").stdout)
        text = self.completion()["choices"][0]["text"]
        self.assertEqual(self.completion(ids)["choices"][0]["text"], text)
        many = self.completion(["Once upon a time", "Another prompt"])
        self.assertEqual([c["index"] for c in many["choices"]], [0, 1])
        self.assertEqual(many["choices"][0]["text"], text)
        self.assertEqual(many["choices"][1]["text"], self.completion("Another prompt")["choices"][0]["text"])
        self.assertEqual(self.completion([ids, ids])["choices"][1]["text"], text)

    def test_streams_carry_the_same_text(self):
        whole = self.completion(max_tokens=30, ignore_eos=True)
        chunks = list(self.server.stream("/v1/completions", {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 30, "ignore_eos": True}))
        self.assertEqual(chunks[-1], "[DONE]")
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks[:-1]), whole["choices"][0]["text"])
        self.assertEqual([c["choices"][0]["finish_reason"] for c in chunks[:-1]], [None] * (len(chunks) - 2) + ["length"])
        self.assertEqual(len({c["id"] for c in chunks[:-1]}), 1)
        self.assertTrue(all("usage" not in c for c in chunks[:-1]))

    def test_chat_streams(self):
        body = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 20, "stream_options": {"include_usage": True}}
        stream = self.server.stream("/v1/chat/completions", body)
        self.assertEqual(stream.headers["Content-Type"].split(";")[0], "text/event-stream")
        self.assertIn("no-cache", stream.headers.get("Cache-Control", ""))
        chunks = list(stream)
        self.assertEqual(chunks.pop(), "[DONE]")
        usage = chunks.pop()
        self.assertEqual(usage["choices"], [])
        self.assertTrue(all(c["usage"] is None for c in chunks))
        self.assertEqual(chunks[0]["choices"][0]["delta"]["role"], "assistant")
        self.assertEqual(chunks[-1]["choices"][0]["delta"], {})
        self.assertIn(chunks[-1]["choices"][0]["finish_reason"], ("stop", "length"))
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
        del body["stream_options"]
        whole = self.good("/v1/chat/completions", body)
        self.assertEqual(whole["choices"][0]["message"]["content"], text)
        self.assertEqual(whole["choices"][0]["message"]["role"], "assistant")
        self.assertEqual({k: whole["usage"][k] for k in ("prompt_tokens", "completion_tokens")},
                         {k: usage["usage"][k] for k in ("prompt_tokens", "completion_tokens")})
        self.assertEqual({c["object"] for c in chunks}, {"chat.completion.chunk"})

    def test_several_choices(self):
        o = self.completion(n=3, temperature=1, seed=5, max_tokens=20, ignore_eos=True)
        texts = [c["text"] for c in o["choices"]]
        self.assertEqual([c["index"] for c in o["choices"]], [0, 1, 2])
        self.assertEqual(len(set(texts)), 3)
        self.assertEqual(o["usage"]["completion_tokens"], 60)
        self.assertEqual(o["usage"]["prompt_tokens"], self.completion()["usage"]["prompt_tokens"])
        again = self.completion(n=2, temperature=1, seed=5, max_tokens=20, ignore_eos=True)
        self.assertEqual([c["text"] for c in again["choices"]], texts[:2])
        got = ["", "", ""]
        for c in self.server.stream("/v1/completions", {"prompt": "Once upon a time", "n": 3, "seed": 5, "max_tokens": 20, "ignore_eos": True}):
            if c != "[DONE]":
                got[c["choices"][0]["index"]] += c["choices"][0]["text"]
        self.assertEqual(got, texts)

    def test_a_seed_is_the_programs_seed(self):
        o = self.completion(temperature=1, seed=11, max_tokens=24, ignore_eos=True)
        alone = json.loads(run("generate", TINY, "--prompt", "Once upon a time", "-n", 24, "--temperature", 1, "--seed", 11, "--ignore-eos", "--json").stdout)
        self.assertEqual(o["choices"][0]["text"], alone["text"])

    def test_stop_strings(self):
        text = self.completion(max_tokens=40, ignore_eos=True)["choices"][0]["text"]
        stop = text[20:24]
        at = text.index(stop)
        o = self.completion(max_tokens=40, ignore_eos=True, stop=["not there", stop])
        self.assertEqual((o["choices"][0]["text"], o["choices"][0]["finish_reason"], o["choices"][0]["stop_reason"]), (text[:at], "stop", stop))
        self.assertEqual(self.completion(max_tokens=40, ignore_eos=True, stop=stop, include_stop_str_in_output=True)["choices"][0]["text"], text[:at] + stop)
        streamed = "".join(c["choices"][0]["text"] for c in self.server.stream("/v1/completions", {
            "prompt": "Once upon a time", "temperature": 0, "max_tokens": 40, "ignore_eos": True, "stop": stop}) if c != "[DONE]")
        self.assertEqual(streamed, text[:at])

    def test_stop_token_ids(self):
        ids = json.loads(run("generate", TINY, "--prompt", "Once upon a time", "-n", 20, "--temperature", 0, "--ignore-eos", "--json").stdout)["tokens"]
        o = self.completion(max_tokens=20, ignore_eos=True, stop_token_ids=[ids[6]])
        self.assertEqual(o["choices"][0]["finish_reason"], "stop")
        self.assertEqual(o["usage"]["completion_tokens"], ids.index(ids[6]) + 1)

    def test_logit_bias(self):
        token = 300
        piece = self.good("/detokenize", {"tokens": [token] * 4})["prompt"]
        o = self.completion(max_tokens=4, logit_bias={str(token): 100}, ignore_eos=True)
        self.assertEqual(o["choices"][0]["text"], piece)
        self.refuse(400, "/v1/completions", {"prompt": "x", "logit_bias": {str(VOCAB): 1}}, names=VOCAB)
        self.refuse(400, "/v1/completions", {"prompt": "x", "logit_bias": {"abc": 1}}, param="logit_bias.abc")

    def test_max_tokens(self):
        o = self.good("/v1/completions", {"prompt": "Once", "temperature": 0, "ignore_eos": True})
        self.assertEqual(o["usage"]["completion_tokens"], 16, "OpenAI's default for this endpoint")
        chat = self.good("/v1/chat/completions", {"messages": MESSAGES, "max_completion_tokens": 3, "max_tokens": 9, "ignore_eos": True})
        self.assertEqual(chat["usage"]["completion_tokens"], 3)
        rest = self.good("/v1/chat/completions", {"messages": MESSAGES, "ignore_eos": True})
        self.assertEqual((rest["usage"]["total_tokens"], rest["choices"][0]["finish_reason"]), (CONTEXT, "length"))

    # ---- refusals ----

    def test_bodies_that_are_no_json(self):
        for body in (b"", b"{", b"[]", b"null", b'{"prompt": "x"} trailing', b"{'prompt': 'x'}", b'{"prompt": "x",}', b"[" * 100000,
                     b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"prompt": "x", "prompt": "y"}', b'{"prompt": NaN}', b"\xff\xfe\x00"):
            with self.subTest(body=body[:30]):
                for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
                    self.refuse(400, path, body)

    def test_invalid_utf8(self):
        self.refuse(400, "/v1/completions", b'{"prompt": "a\xff\xfeb"}', names="UTF-8")
        self.refuse(400, "/v1/completions", b'{"prompt": "\xed\xa0\x80"}', names="UTF-8")
        self.refuse(400, "/v1/completions", b'{"prompt": "\\ud800"}')

    def test_wrong_types_name_the_field(self):
        for field, value in (("max_tokens", "ten"), ("max_tokens", 1.5), ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 1e300), ("temperature", "hot"),
                             ("temperature", -0.5), ("temperature", True), ("top_p", 0), ("top_p", 1.1), ("n", 0), ("n", 1000), ("stream", "yes"),
                             ("seed", 0.5), ("stop", 7), ("stop", [""]), ("stop", ["a"] * 17), ("stop", "x" * 300), ("logit_bias", []),
                             ("presence_penalty", 3), ("frequency_penalty", -2.5), ("model", 5), ("prompt", 5), ("prompt", []), ("prompt", {}),
                             ("prompt", [[]]), ("ignore_eos", 1), ("stream_options", True), ("min_p", 2), ("repetition_penalty", 0)):
            with self.subTest(field=field, value=value):
                reply = self.refuse(400, "/v1/completions", {"prompt": "x", "max_tokens": 1, field: value}, names=field)
                self.assertTrue(reply.json["error"]["param"].startswith(field))
        for field, value in (("messages", []), ("messages", "hi"), ("messages", [5]), ("messages", [{}]), ("messages", [{"role": "user"}]),
                             ("messages", [{"role": 5, "content": "x"}]), ("messages", [{"role": "user", "content": [{"type": "image_url"}]}]),
                             ("tools", "x"), ("tool_choice", "required"), ("max_completion_tokens", "x")):
            with self.subTest(field=field, value=value):
                reply = self.refuse(400, "/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1, field: value}, names=field)
                self.assertTrue(reply.json["error"]["param"].startswith(field))
        self.refuse(400, "/v1/chat/completions", {}, param="messages")
        self.refuse(400, "/v1/completions", {}, param="prompt")

    def test_fields_that_would_change_the_answer_are_refused_and_harmless_ones_taken(self):
        for field, value in (("foo", 1), ("best_of", 4), ("echo", True), ("guided_regex", "a+"), ("logprobs", 5), ("suffix", "x"), ("mirostat", 2)):
            with self.subTest(field=field):
                self.refuse(400, "/v1/completions", {"prompt": "x", "max_tokens": 1, field: value}, param=field, names=field)
        text = self.completion()["choices"][0]["text"]
        for field, value in (("user", "me"), ("store", True), ("metadata", {"a": "b"}), ("service_tier", "auto"), ("best_of", 1), ("echo", False),
                             ("seed", None), ("stop", None), ("logprobs", None), ("n", None), ("suffix", None)):
            with self.subTest(field=field, value=value):
                self.assertEqual(self.completion(**{field: value})["choices"][0]["text"], text)

    def test_another_model_is_not_found(self):
        for path in ("/v1/completions", "/v1/chat/completions"):
            self.refuse(404, path, {"model": "gpt-4", "prompt": "x", "max_tokens": 1} if path == "/v1/completions" else {"model": "gpt-4", "messages": MESSAGES},
                        names="gpt-4")

    def test_prompts_that_do_not_fit(self):
        for stream in (False, True):
            self.refuse(400, "/v1/completions", {"prompt": "word and word " * 400, "stream": stream}, names=CONTEXT)
            reply = self.refuse(400, "/v1/chat/completions", {"messages": [{"role": "user", "content": "no " * 2000}], "stream": stream}, names=CONTEXT)
            self.assertEqual(reply.json["error"]["code"], "context_length_exceeded")
        self.refuse(400, "/v1/completions", {"prompt": [5] * 100, "max_tokens": CONTEXT - 50}, names=CONTEXT)
        self.refuse(400, "/v1/completions", {"prompt": [5, VOCAB]}, names=VOCAB)
        self.assertTrue(self.server.idle())

    def test_routes_and_methods(self):
        for path in ("/", "/v1", "/v1/chat", "/v1/nothing", "/v1/completions/", "/../etc/passwd", "/%2e%2e/x"):
            reply = self.server.post(path, {})
            if path != "/":  # may become a page
                self.assertEqual(reply.status, 404, path)
                self.check_error(reply)
        for method, path, allowed in (("GET", "/v1/completions", "POST"), ("DELETE", "/v1/models", "GET"), ("POST", "/health", "GET"), ("PUT", "/tokenize", "POST")):
            reply = self.server.request(method, path)
            self.assertEqual(reply.status, 405, (method, path))
            self.assertIn(allowed, reply.headers["Allow"])
            self.check_error(reply)


class Real(WithServer):
    """What needs a model that writes text, and takes a while."""
    model = SMOLLM2

    @classmethod
    def setUpClass(cls):
        need_smollm2(cls)
        super().setUpClass()

    def test_it_knows_the_capital(self):
        o = self.good("/v1/chat/completions", {"messages": MESSAGES, "temperature": 0, "max_tokens": 40})
        self.assertIn("Paris", o["choices"][0]["message"]["content"])
        self.assertEqual(o["choices"][0]["finish_reason"], "stop")
        self.assertEqual(self.server.get("/v1/models").json["data"][0]["id"], "smollm2")

    def test_parallel_answers_are_those_of_lone_runs(self):
        def ask(i):
            """Prompts of several lengths, half of the answers greedy and half drawn with a seed."""
            return self.good("/v1/completions", {"prompt": f"The number {i} is" + " not" * (i * i), "temperature": i % 2, "seed": i,
                                                 "max_tokens": 8 + i, "ignore_eos": True})["choices"][0]["text"]

        alone = [ask(i) for i in range(12)]
        together = [None] * len(alone)

        def worker(i):
            together[i] = ask(i)

        threads = [threading.Thread(target=worker, args=(i,)) for i in range(len(alone))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(together, alone)

    def test_a_closed_socket_frees_its_pages(self):
        self.assertTrue(self.server.idle())
        before = self.server.metrics()
        stream = self.server.stream("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True})
        events = iter(stream)
        for _ in range(5):
            next(events)
        self.assertGreater(self.server.metrics()["vllm:kv_cache_usage_perc"], 0)
        stream.close()
        self.assertTrue(self.server.idle(), "pages are still held after the client left")
        self.assertLess(self.server.metrics()["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"], 1000)

    def test_a_client_that_leaves_before_the_answer(self):
        self.assertTrue(self.server.idle())
        before = self.server.metrics()
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}).encode()
        with self.server.connect() as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(0.3)
        self.assertTrue(self.server.idle(), "pages are still held after the client left")
        self.assertLess(self.server.metrics()["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"], 1000)


if __name__ == "__main__":
    unittest.main()
