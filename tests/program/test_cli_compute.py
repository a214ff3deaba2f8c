"""Commands that run the model: logits, generate, chat, bench; and that their results depend on nothing but their input."""
import array
import fcntl
import json
import math
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
import unittest

from support import CONTEXT, DATA, PROGRAM, SLOWER, SMOLLM2, TINY, TINY_QUANT, VOCAB, ProgramTest, environment, ids_of, need_smollm2, run

# Models with transformers' logits beside them, and the mean KL divergence that their precision allows.
REFERENCES = [
    ("llama", "", 1e-4), ("llama", "model-bf16.gguf", 1e-4), ("llama-bias", "", 1e-4), ("llama-bias", "model-bf16.gguf", 1e-4),
    ("llama-linear", "model-bf16.gguf", 1e-4), ("llama-yarn", "", 1e-4), ("llama-yarn", "model-f16.gguf", 1e-4),
    ("llama3-rope", "", 1e-4), ("llama3-rope", "model-f16.gguf", 1e-4), ("llama-256", "model-Q4_K_M.gguf", 5e-3),
]


def read_npy(path):
    """shape and values of a float32 C-ordered .npy file of version 1."""
    data = path.read_bytes()
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:8]
    (length,) = struct.unpack("<H", data[8:10])
    header = eval(data[10:10 + length], {"__builtins__": {}})
    assert header["descr"] == "<f4" and header["fortran_order"] is False and (10 + length) % 64 == 0, header
    values = array.array("f", data[10 + length:])
    assert len(values) == math.prod(header["shape"])
    return header["shape"], values


def log_softmax(row):
    top = max(row)
    total = top + math.log(sum(math.exp(x - top) for x in row))
    return [x - total for x in row]


def mean_kl(want, got):
    total = 0.0
    for row in range(0, len(want), VOCAB):
        p, q = log_softmax(want[row:row + VOCAB]), log_softmax(got[row:row + VOCAB])
        total += sum(math.exp(a) * (a - b) for a, b in zip(p, q))
    return total * VOCAB / len(want)


class Logits(ProgramTest):
    def logits(self, model, ids, *options, **environment):
        out = self.folder / "out.npy"
        self.succeed("logits", model, "--tokens", self.file("ids", ids), "--out", out, *options, **environment)
        return out

    def test_they_agree_with_transformers(self):
        for folder, name, allowed in REFERENCES:
            prompts = (DATA / "model" / folder / "prompts.txt").read_text().splitlines()
            halves = (DATA / "model" / folder / "logits.f16").read_bytes()
            at = 0
            for prompt in prompts:
                n = len(prompt.split())
                want = struct.unpack_from(f"<{n * VOCAB}e", halves, at)
                at += 2 * n * VOCAB
                with self.subTest(folder=folder, name=name, n=n):
                    shape, got = read_npy(self.logits(DATA / "model" / folder / name, prompt))
                    self.assertEqual(shape, (n, VOCAB))
                    self.assertLessEqual(mean_kl(want, got), allowed)
            self.assertEqual(at, len(halves))

    def test_the_same_bits_on_every_path(self):
        need_smollm2(self)
        ids = " ".join(str(i * 37 % VOCAB) for i in range(150))
        for model, prompt in ((TINY, ids), (TINY_QUANT, ids), (SMOLLM2, " ".join(ids.split()[:24]))):
            first = self.logits(model, prompt, "-t", "1").read_bytes()
            for options, environment in ((["-t", "2"], {}), (["-t", "3"], {}), ([], {"TROUPE_ISA": "scalar"}), ([], {"TROUPE_ISA": "avx2"}),
                                         (["--max-num-batched-tokens", "16"], {}), (["--max-num-batched-tokens", "7"], {}),
                                         (["--tensor-parallel-size", "2"], {}), (["--tensor-parallel-size", "2", "-t", "4"], {})):
                with self.subTest(model=model.name, options=options, environment=environment):
                    self.assertTrue(self.logits(model, prompt, *options, **environment).read_bytes() == first, "other bits")

    def test_sizes_that_do_not_divide_are_refused(self):
        need_smollm2(self)
        ids = self.file("ids", "1 2 3")
        for model, size, options, names in ((SMOLLM2, 4, (), "9 heads over 3 KV heads"), (TINY, 8, (), "tensor-parallel-size 8"),
                                            (TINY, 2, ("--reference",), "reference path"), (TINY, 0, (), "--tensor-parallel-size")):
            with self.subTest(model=model.name, size=size):
                self.fail_with(2, "logits", model, "--tokens", ids, "--out", self.folder / "o.npy", "--tensor-parallel-size", size, *options,
                               names=names)

    def test_a_prefix_has_the_logits_of_the_whole(self):
        ids = [str(i * 31 % VOCAB) for i in range(90)]
        _, whole = read_npy(self.logits(TINY_QUANT, " ".join(ids)))
        for n in (1, 2, 17, 64):
            _, part = read_npy(self.logits(TINY_QUANT, " ".join(ids[:n])))
            self.assertEqual(part, whole[:n * VOCAB], n)

    def test_tokens_from_stdin_and_a_full_context(self):
        out = self.folder / "full.npy"
        self.succeed("logits", TINY, "--tokens", "-", "--out", out, stdin=",".join(["7"] * CONTEXT))
        self.assertEqual(read_npy(out)[0], (CONTEXT, VOCAB))


class Generate(ProgramTest):
    def generate(self, *options, model=TINY, prompt="Once upon a time", **environment):
        source = ["--prompt", prompt] if prompt is not None else []
        return json.loads(self.succeed("generate", model, *source, "--json", *options, **environment))

    def test_json(self):
        o = self.generate("-n", "8", "--temperature", "0", "--ignore-eos")
        self.assertEqual(set(o), {"tokens", "text", "finish_reason", "usage", "timings"})
        self.assertEqual(len(o["tokens"]), 8)
        self.assertEqual(o["finish_reason"], "length")
        n = len(ids_of(self.succeed("tokenize", TINY, stdin="Once upon a time")))
        self.assertEqual(o["usage"], {"prompt_tokens": n, "completion_tokens": 8, "total_tokens": n + 8})
        self.assertTrue(all(isinstance(v, float) and v >= 0 for v in o["timings"].values()))

    def recommending(self, **sampling):
        """TINY with keys general.sampling.NAME, and one that fills up to the alignment of what follows."""
        def string(text):
            return struct.pack("<Q", len(text)) + text
        keys = b"".join(string(f"general.sampling.{k}".encode()) + struct.pack("<If", 6, v) for k, v in sampling.items())
        keys += string(b"fill") + struct.pack("<I", 8)
        keys += string(b"." * (32 - (len(keys) + 8) % 32))
        model = TINY.read_bytes()
        (n,) = struct.unpack_from("<Q", model, 16)
        return self.file("recommending.gguf", model[:16] + struct.pack("<Q", n + len(sampling) + 1) + keys + model[24:])

    def test_sampling_is_as_the_model_recommends(self):
        greedy = self.generate("-n", "24", "--temperature", "0", "--ignore-eos")["tokens"]
        hot = self.generate("-n", "24", "--temperature", "1", "--seed", "3", "--ignore-eos")["tokens"]
        self.assertNotEqual(hot, greedy)
        model = self.recommending(temp=0)
        self.assertEqual(self.generate("-n", "24", "--ignore-eos", model=model)["tokens"], greedy)
        self.assertEqual(self.generate("-n", "24", "--temperature", "1", "--seed", "3", "--ignore-eos", model=model)["tokens"], hot)
        self.assertEqual(self.generate("-n", "24", "--generation-config", "none", "--seed", "3", "--ignore-eos", model=model)["tokens"], hot)
        done = run("generate", self.recommending(top_p=1.5, temp=0), "--prompt", "x", "-n", "2")  # which no request could ask for
        self.assertEqual(done.returncode, 0)
        for word in ("recommending.gguf", "left aside", "top_p"):
            self.assertIn(word, done.stderr.decode())

    def test_plain_output_is_the_text_and_a_newline(self):
        o = self.generate("-n", "12", "--temperature", "0")
        plain = self.succeed("generate", TINY, "--prompt", "Once upon a time", "-n", "12", "--temperature", "0")
        self.assertEqual(plain.decode(), o["text"] + "\n")

    def test_greedy_continuations_of_transformers(self):
        for folder, name, _ in REFERENCES:
            greedy = DATA / "model" / folder / "greedy.txt"
            if not name or not greedy.exists():
                continue  # a folder has no tokenizer.json here, and generate wants to write text
            for prompt, answer in zip((greedy.parent / "prompts.txt").read_text().splitlines(), greedy.read_text().splitlines()):
                want = ids_of(answer)
                with self.subTest(folder=folder, name=name, n=len(prompt.split())):
                    o = self.generate("--tokens", self.file("ids", prompt), "-n", len(want), "--temperature", "0", "--ignore-eos",
                                      model=greedy.parent / name, prompt=None)
                    self.assertEqual(o["tokens"], want)

    def test_what_smollm2_says(self):
        need_smollm2(self)
        o = self.generate("-n", "8", "--temperature", "0", model=SMOLLM2, prompt="The capital of France is")
        self.assertIn("Paris", o["text"])
        o = self.generate("--user", "What is the capital of France? Answer in one word.", "--temperature", "0", "-n", "40", model=SMOLLM2, prompt=None)
        self.assertIn("Paris", o["text"])
        self.assertEqual(o["finish_reason"], "stop")
        self.assertNotIn("<|im_end|>", o["text"])

    def test_chats_differ_by_their_system_message(self):
        need_smollm2(self)
        a, b = (self.generate("--user", "Hi", "--system", s, "-n", "4", "--temperature", "0", model=SMOLLM2, prompt=None)["usage"]
                for s in ("Be brief.", "You are a pirate who talks of nothing but the sea."))
        self.assertLess(a["prompt_tokens"], b["prompt_tokens"])

    def test_the_same_seed_gives_the_same_answer(self):
        options = ("-n", "40", "--temperature", "1", "--ignore-eos")
        first = self.generate(*options, "--seed", "7")
        for more, environment in (([], {}), (["-t", "1"], {}), (["-t", "2"], {}), ([], {"TROUPE_ISA": "scalar"}),
                                  (["--max-num-batched-tokens", "3"], {}), (["--max-model-len", "128"], {})):
            self.assertEqual(self.generate(*options, "--seed", "7", *more, **environment)["tokens"], first["tokens"], (more, environment))
        self.assertNotEqual(self.generate(*options, "--seed", "8")["tokens"], first["tokens"])
        self.assertNotEqual(self.generate(*options)["tokens"], self.generate(*options)["tokens"], "without a seed answers vary")

    def test_stop_strings(self):
        need_smollm2(self)
        options = ("-n", "40", "--temperature", "0")
        text = self.generate(*options, model=SMOLLM2, prompt="Count: 1, 2, 3, 4,")["text"]
        stop = text[12:17]
        self.assertEqual(len(stop), 5)
        o = self.generate(*options, "--stop", "never seen", stop, model=SMOLLM2, prompt="Count: 1, 2, 3, 4,")
        self.assertEqual(o["finish_reason"], "stop")
        self.assertEqual(o["text"], text[:text.index(stop)])
        self.assertLess(o["usage"]["completion_tokens"], 40)

    def test_the_context_ends_the_answer(self):
        o = self.generate("--ignore-eos", "--temperature", "0", "--max-model-len", "48")
        self.assertEqual(o["finish_reason"], "length")
        self.assertEqual(o["usage"]["total_tokens"], 48)

    def test_filters_that_leave_one_token_are_greedy(self):
        greedy = self.generate("-n", "16", "--temperature", "0", "--ignore-eos")["tokens"]
        for options in (("--top-k", "1"), ("--top-p", "0.000001"), ("--min-p", "1")):
            self.assertEqual(self.generate("-n", "16", "--ignore-eos", "--temperature", "1", *options)["tokens"], greedy, options)

    def test_a_reader_that_closes_the_pipe_ends_the_program(self):
        need_smollm2(self)
        process = subprocess.Popen([PROGRAM, "generate", str(SMOLLM2), "--prompt", "Once", "-n", "4000", "--ignore-eos"], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=environment())
        self.assertTrue(process.stdout.read(5))
        process.stdout.close()
        self.assertIn(process.wait(20 * SLOWER), (0, 3, -signal.SIGPIPE))
        process.stderr.close()

    def test_every_cache_type_answers(self):
        need_smollm2(self)
        for dtype in ("f32", "f16", "bf16"):
            o = self.generate("-n", "8", "--temperature", "0", "--kv-cache-dtype", dtype, model=SMOLLM2, prompt="The capital of France is")
            self.assertIn("Paris", o["text"], dtype)

    def test_the_reference_path_agrees(self):
        a = self.generate("-n", "16", "--temperature", "0", "--ignore-eos", "--reference")["tokens"]
        self.assertEqual(a, self.generate("-n", "16", "--temperature", "0", "--ignore-eos")["tokens"])


class Chat(ProgramTest):
    def test_a_conversation_over_a_pipe(self):
        need_smollm2(self)
        said = self.succeed("chat", SMOLLM2, "--temperature", "0", "-n", "24", stdin="My name is Ada.\nWhat is my name?\n/exit\nnever read\n").decode()
        self.assertIn("Ada", said)
        forgot = self.succeed("chat", SMOLLM2, "--temperature", "0", "-n", "24", stdin="What is my name?\n").decode()
        self.assertNotIn("Ada", forgot)

    def test_ctrl_c_stops_the_answer_and_not_the_program(self):
        need_smollm2(self)
        terminal, other = pty.openpty()
        process = subprocess.Popen([PROGRAM, "chat", str(SMOLLM2), "--temperature", "0"], stdin=other, stdout=other, stderr=other, env=environment(),
                                   preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)))
        os.close(other)
        self.addCleanup(lambda: (process.poll() is None and process.kill(), process.wait(), os.close(terminal)))
        seen = b""

        def wait_for(what):
            nonlocal seen
            deadline = time.monotonic() + 60 * SLOWER
            while what not in seen:
                ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
                self.assertTrue(ready, f"no {what!r} in {seen!r}")
                seen += os.read(terminal, 4096)
            seen = seen[seen.index(what) + len(what):]

        wait_for(b"> ")
        os.write(terminal, b"Write a very long story about a ship.\n")
        wait_for(b"ship.\r\n")
        while len(seen) < 20:
            seen += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        wait_for(b"[stopped]")
        wait_for(b"> ")
        os.write(terminal, b"What is the capital of France?\n")
        wait_for(b"Paris")
        wait_for(b"> ")
        os.write(terminal, b"\x04")
        self.assertEqual(process.wait(10 * SLOWER), 0)

    def test_a_model_without_template_says_so(self):
        self.fail_with(2, "chat", TINY_QUANT, stdin="hi\n", names="--chat-template")


class Bench(ProgramTest):
    def test_json(self):
        rows = json.loads(self.succeed("bench", TINY, "-p", "16,32", "-n", "8", "-d", "0,16", "-b", "1,2", "-r", "3", "-t", "1", "--json"))
        self.assertEqual([r["test"] for r in rows], ["pp16", "pp32", "tg8", "tg8@16", "batch1", "batch2"])
        for r in rows:
            self.assertEqual(set(r), {"test", "n_prompt", "n_gen", "depth", "batch", "threads", "samples", "median"})
            self.assertEqual(len(r["samples"]), 3)
            self.assertEqual(r["median"], sorted(r["samples"])[1])
            self.assertGreater(min(r["samples"]), 0)
            self.assertEqual(r["threads"], 1)
        self.assertEqual([(r["n_prompt"], r["n_gen"], r["depth"], r["batch"]) for r in rows],
                         [(16, 0, 0, 1), (32, 0, 0, 1), (0, 8, 0, 1), (0, 8, 16, 1), (0, 8, 0, 1), (0, 8, 0, 2)])

    def test_prompt_as_long_as_the_context(self):
        for more in ((), ("--max-model-len", CONTEXT)):
            rows = json.loads(self.succeed("bench", TINY, "-p", f"16,{CONTEXT}", "-n", "4", "-r", "1", "--json", *more))
            self.assertEqual([r["n_prompt"] for r in rows], [16, CONTEXT, 0])
            self.assertGreater(min(rows[1]["samples"]), 0)
        self.fail_with(2, "bench", TINY, "-p", CONTEXT + 1, "-n", "4", "-r", "1", names=(str(CONTEXT + 1), f"context of {CONTEXT}"))

    def test_tables(self):
        options = ("bench", TINY, "-p", "8", "-n", "4", "-r", "1")
        csv = self.succeed(*options, "-o", "csv").decode().splitlines()
        self.assertEqual(len(csv), 3)
        self.assertEqual({line.count(",") for line in csv}, {6})
        md = self.succeed(*options).decode().splitlines()
        self.assertEqual(len(md), 4)
        self.assertTrue(all(line.startswith("| ") and line.endswith(" |") for line in md))


class Dummy(ProgramTest):
    """Random weights for a config.json alone."""

    def test_speed_without_weights(self):
        config = self.file("config.json", (DATA / "model/llama-bias/config.json").read_text())
        rows = json.loads(self.succeed("bench", config, "--load-format", "dummy", "-p", "16", "-n", "4", "-r", "1", "--json"))
        self.assertEqual([r["test"] for r in rows], ["pp16", "tg4"])
        out = self.succeed("generate", self.folder, "--load-format", "dummy", "--prompt", "one two", "-n", "8", "--seed", "5", "--ignore-eos", "--json")
        answer = json.loads(out)
        self.assertEqual(len(answer["tokens"]), 8)
        self.assertTrue(answer["text"])
        self.assertEqual(json.loads(self.succeed("generate", config, "--load-format", "dummy", "--prompt", "one two", "-n", "8", "--seed", "5", "--ignore-eos",
                                                 "--json"))["tokens"], answer["tokens"])

    def test_presets(self):
        found = json.loads(self.succeed("inspect", "llama-3.1-70b", "--load-format", "dummy", "--json"))
        self.assertEqual((found["architecture"], found["shape"]["layers"], found["parameters"]), ("llama", 80, 70553706496))
        self.fail_with(2, "inspect", "gpt-oss-20b", "--load-format", "dummy", names=("gpt_oss", "llama"))
        self.fail_with(2, "bench", "llama-9", "--load-format", "dummy", names=("llama-9", "llama-3.1-8b"))
        self.fail_with(2, "bench", "llama-3.1-8b", "--load-format", "fast", names="load-format")


if __name__ == "__main__":
    unittest.main()
