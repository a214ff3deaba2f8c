"""Usage of the program: help, misspellings, exit codes and error lines, hostile files, configuration."""
import json
import os
import struct
import subprocess
import tomllib
import unittest

from support import CONTEXT, PROGRAM, TINY, VOCAB, ProgramTest, environment, run

COMMANDS = {
    "serve": "host port config api-key max-model-len max-num-seqs max-num-batched-tokens kv-cache-memory-bytes kv-cache-dtype "
             "device threads tensor-parallel-size load-format served-model-name chat-template generation-config deterministic max-requests print-config",
    "chat": "system temperature seed threads",
    "generate": "prompt tokens user system max-tokens temperature top-p top-k min-p seed stop json ignore-eos threads",
    "bench": "prompt depth batch repetitions threads json output",
    "tokenize": "no-bos no-parse-special file",
    "detokenize": "skip-special tokens file stream",
    "template": "messages tools no-generation-prompt vars template-file",
    "logits": "tokens out device threads",
    "inspect": "json",
    "doctor": "",
}
# Each takes a model and nothing that the model's content could change before it is opened.
OPENERS = {
    "generate": ["--prompt", "x", "-n", "1"],
    "tokenize": [],
    "detokenize": [],
    "inspect": [],
    "bench": ["-p", "4", "-n", "0", "-r", "1"],
    "serve": ["--port", "0"],
}


class Usage(ProgramTest):
    def test_help_on_every_level(self):
        top = self.succeed("--help").decode()
        for command, options in COMMANDS.items():
            self.assertIn(command, top)
            text = self.succeed(command, "--help").decode()
            for option in options.split():
                self.assertRegex(text, rf"--{option}\b", command)
        everything = self.succeed("--help-all").decode()
        self.assertIn("--kv-cache-dtype", everything)

    def test_version(self):
        self.assertRegex(self.succeed("--version").decode(), r"^\d+\.\d+\.\d+\n$")

    def test_unknown_commands_and_options_name_the_nearest_spelling(self):
        self.fail_with(2, "generat", names="'generate'")
        self.fail_with(2, "severe", names="'serve'")
        self.fail_with(2, "frobnicate", names=("'frobnicate'", "--help"))
        self.fail_with(2, "generate", TINY, "--promt", "x", names=("'--promt'", "'--prompt'"))
        self.fail_with(2, "generate", TINY, "--temprature=0", "--prompt", "x", names=("'--temprature'", "'--temperature'"))
        self.fail_with(2, "serve", "--max-num-seq", "4", names="'--max-num-seqs'")
        self.fail_with(2, "tokenize", TINY, "surplus", names="'surplus'")
        self.fail_with(2, "generate", TINY, "--xyzzyplugh", names=("'--xyzzyplugh'", "generate --help"))

    def test_the_log_level(self):
        for command in COMMANDS:
            text = self.succeed(command, "--help").decode()
            self.assertIn("--log-level", text, command)
            self.assertIn("TROUPE_LOG", text, command)
        self.assertIn("TROUPE_LOG", self.succeed("--help").decode())
        generate = ("generate", TINY, "--prompt", "x", "-n", "1")
        for said, options, environment in ((False, (), {}), (True, ("--log-level", "info"), {}), (True, (), {"TROUPE_LOG": "info"}),
                                           (False, ("--log-level", "off"), {"TROUPE_LOG": "trace"})):
            done = run(*generate, *options, **environment)
            self.assertEqual((done.returncode, b"KV cache" in done.stderr), (0, said), done)
        self.fail_with(2, *generate, "--log-level", "loud", names=("--log-level", "warn"))
        self.fail_with(2, *generate, TROUPE_LOG="loud", names=("TROUPE_LOG", "warn"))
        printed = self.succeed("serve", TINY, "--print-config", TROUPE_LOG="debug").decode()
        self.assertIn("log-level = 'debug'", printed)

    def test_no_command_is_a_usage_error(self):
        self.fail_with(2, names=("troupe serve", "--help"))

    def test_values_that_are_no_values(self):
        self.fail_with(2, "serve", "--port", names=("--port", "value is missing"))
        self.fail_with(2, "serve", "--max-model-len", "long", names=("--max-model-len: 'long'",))
        self.fail_with(2, "serve", "--port", "70000", names=("--port", 65535))
        self.fail_with(2, "serve", TROUPE_MAX_MODEL_LEN="long", names=("TROUPE_MAX_MODEL_LEN (--max-model-len): 'long'",))
        self.fail_with(2, "serve", "--max-model-len", "long", TROUPE_MAX_MODEL_LEN="5", names=("troupe: --max-model-len: 'long'",))

    def test_values_out_of_range(self):
        for option, value in (("--temperature", "-1"), ("--temperature", "warm"), ("--temperature", "nan"), ("--top-p", "1.5"), ("--top-p", "0"),
                              ("--min-p", "-0.1"), ("-n", "-5"), ("-n", "many"), ("--seed", "-3.5"), ("--threads", "-1"),
                              ("--kv-cache-dtype", "q1"), ("--device", "toaster"), ("--repetition-penalty", "0"),
                              ("--frequency-penalty", "9"), ("--max-num-seqs", "0")):
            with self.subTest(option=option, value=value):
                self.fail_with(2, "generate", TINY, "--prompt", "x", "-n", "1", option, value)
        self.fail_with(2, "generate", TINY, "--prompt", names="--prompt")

    def test_stop_strings_have_limits(self):
        self.fail_with(2, "generate", TINY, "--prompt", "x", "-n", "1", "--stop", "s" * 257, names=("stop", 256))

    def test_a_prompt_is_needed_and_only_one(self):
        self.fail_with(2, "generate", TINY, names="--prompt")
        self.fail_with(2, "generate", TINY, "--prompt", "x", "--user", "y", names="--prompt")


class Files(ProgramTest):
    def test_missing_models(self):
        for command, options in OPENERS.items():
            with self.subTest(command=command):
                self.fail_with(2, command, self.folder / "absent.gguf", *options, stdin="1", names="absent.gguf")
        self.fail_with(2, "generate", "no-such-name", "--prompt", "x", names="no-such-name")

    def test_without_the_default_model_the_message_says_how_to_get_it(self):
        self.fail_with(2, "generate", "--prompt", "x", names=("smollm2", "tools/quickstart"), TROUPE_MODELS=self.folder)
        done = run("doctor", TROUPE_MODELS=self.folder)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"tools/quickstart", done.stdout + done.stderr)

    def test_models_by_name(self):
        (self.folder / "small.gguf").symlink_to(TINY)
        self.assertEqual(self.succeed("tokenize", "small", stdin="hello", TROUPE_MODELS=self.folder), self.succeed("tokenize", TINY, stdin="hello"))

    def test_files_that_are_folders_or_may_not_be_read(self):
        for arguments in (("serve", TINY, "--config"), ("serve", TINY, "--chat-template"), ("template", TINY, "--messages"),
                          ("generate", TINY, "--tokens"), ("tokenize", TINY, "--file")):
            self.fail_with(2, *arguments, self.folder, names=(self.folder, "is a directory"))
        secret = self.file("secret.gguf", TINY.read_bytes())
        secret.chmod(0)
        if os.access(secret, os.R_OK):
            return  # nothing is secret from root
        self.fail_with(2, "inspect", secret, names=(secret, "permissions"))

    def test_truncated_models(self):
        whole = TINY.read_bytes()
        for length in (0, 3, 4, 20, 24, 100, 3000, len(whole) // 2, len(whole) - 1):
            path = self.file(f"cut-{length}.gguf", whole[:length])
            for command, options in OPENERS.items():
                if command in ("tokenize", "detokenize") and length > 10000:
                    continue  # these need the header alone
                with self.subTest(length=length, command=command):
                    self.fail_with(2, command, path, *options, stdin="1", names=path.name)

    def test_corrupt_headers(self):
        whole = TINY.read_bytes()

        def patched(at, data):
            return whole[:at] + data + whole[at + len(data):]

        cases = {
            "magic": patched(0, b"GGML"),
            "version": patched(4, struct.pack("<I", 99)),
            "tensors": patched(8, struct.pack("<Q", 1 << 60)),
            "entries": patched(16, struct.pack("<Q", 1 << 60)),
            "key-length": patched(24, struct.pack("<Q", (1 << 63) + 5)),
            "negative-length": patched(24, struct.pack("<q", -1)),
            "noise": bytes((i * 167 + 13) % 256 for i in range(4096)),
            "text": b"This is not a model.\n" * 100,
        }
        for name, content in cases.items():
            path = self.file(f"{name}.gguf", content)
            with self.subTest(name=name):
                said = self.fail_with(2, "generate", path, "--prompt", "x", "-n", "1", names=path.name)
                self.assertLess(len(said), 500)

    def test_flipped_bytes_never_crash(self):
        whole = bytearray(TINY.read_bytes())
        header = whole.find(b"token_embd.weight") + 200
        seed = 12345
        for k in range(40):
            seed = seed * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
            broken = bytearray(whole)
            broken[(seed >> 20) % header] ^= 1 << (seed >> 60) % 8
            done = run("inspect", self.file("flipped.gguf", bytes(broken)), "--json")
            with self.subTest(k=k):
                self.assertIn(done.returncode, (0, 2), done.stderr)
                self.assertEqual(done.returncode == 2, done.stderr.startswith(b"troupe: "))

    def test_a_folder_that_holds_no_model(self):
        self.fail_with(2, "generate", self.folder, "--prompt", "x", names=str(self.folder))
        self.file("config.json", "{]")
        self.fail_with(2, "generate", self.folder, "--prompt", "x", names="config.json")

    def test_token_files(self):
        out = self.folder / "o.npy"
        for command, options in (("logits", ["--out", out]), ("generate", ["-n", "1"])):
            with self.subTest(command=command):
                self.fail_with(2, command, TINY, "--tokens", self.file("t", "1 2 abc 4"), *options, names="'abc'")
                self.fail_with(2, command, TINY, "--tokens", self.file("t", "1 2.5"), *options, names="'2.5'")
                self.fail_with(2, command, TINY, "--tokens", self.file("t", "1 -2"), *options, names="'-2'")
                self.fail_with(2, command, TINY, "--tokens", self.file("t", "99999999999999999999"), *options, names="999")
                self.fail_with(2, command, TINY, "--tokens", self.file("t", f"5 {VOCAB}"), *options, names=VOCAB)
                self.fail_with(2, command, TINY, "--tokens", self.file("t", ""), *options)
                self.fail_with(2, command, TINY, "--tokens", self.folder / "absent", *options, names="absent")
                self.fail_with(2, command, TINY, "--tokens", self.file("t", b"7\n\x1b[31m\0\xff"), *options, names=r"'\x1b[31m\x00\xff'")
        self.fail_with(2, "detokenize", TINY, stdin="1 two", names="'two'")
        self.fail_with(2, "detokenize", TINY, stdin=f"5 {VOCAB}", names=VOCAB)

    def test_prompts_longer_than_the_context_name_the_limit(self):
        ids = self.file("long", "5 " * (CONTEXT + 40))
        self.fail_with(2, "generate", TINY, "--tokens", ids, names=CONTEXT)
        self.fail_with(2, "generate", TINY, "--prompt", "word and word " * 400, names=CONTEXT)
        self.fail_with(2, "generate", TINY, "--max-model-len", "64", "--prompt", "word and word " * 40, names=64)
        self.fail_with(2, "logits", TINY, "--tokens", ids, "--out", self.folder / "o.npy", names=CONTEXT)

    def test_sequences_longer_than_the_model_s_context_are_refused(self):
        names = (f"max_model_len {CONTEXT + 1}", f"context of {CONTEXT} tokens")
        for command, *options in (("serve", "--port", "0"), ("generate", "--prompt", "x", "-n", "1"), ("generate", "--prompt", "x", "--reference"),
                                  ("generate", "--prompt", "x", "--tensor-parallel-size", "2"), ("chat",)):
            with self.subTest(command=command, options=options):
                self.fail_with(2, command, TINY, "--max-model-len", CONTEXT + 1, *options, names=names)
        self.fail_with(2, "bench", TINY, "-p", CONTEXT + 1, "-n", "0", names=names)
        self.succeed("generate", TINY, "--prompt", "x", "-n", "1", "--max-model-len", CONTEXT)

    def test_a_folder_without_tokenizer_runs_ids_but_no_text(self):
        self.fail_with(2, "tokenize", TINY.parent, stdin="x", names="tokenizer.json")
        self.fail_with(2, "generate", TINY.parent, "--prompt", "x", names="token ids")

    def test_invalid_utf8_is_refused_or_replaced_but_never_fatal(self):
        done = run("tokenize", TINY, stdin=b"ab\xff\xfecd\xc3")
        self.assertIn(done.returncode, (0, 2), done.stderr)

    def test_output_that_cannot_be_written(self):
        self.fail_with(3, "logits", TINY, "--tokens", self.file("t", "1 2"), "--out", self.folder / "no" / "o.npy", names="o.npy")
        with open("/dev/full", "wb") as full:
            done = subprocess.run([PROGRAM, "tokenize", TINY], input=b"hello", stdout=full, stderr=subprocess.PIPE, env=environment())
            self.assertEqual(done.returncode, 3, "tokenize to a full disk must not report success")


class Looking(ProgramTest):
    def test_inspect(self):
        o = json.loads(self.succeed("inspect", TINY, "--json"))
        self.assertEqual(o["architecture"], "llama")
        self.assertEqual((o["shape"]["layers"], o["shape"]["hidden"], o["shape"]["vocab"], o["shape"]["context"]), (3, 64, VOCAB, CONTEXT))
        self.assertEqual(o["metadata"]["llama.embedding_length"], 64)
        self.assertEqual(len(o["tensors"]), 51)
        self.assertEqual(sum(t["bytes"] for t in o["tensors"]), o["bytes"])
        self.assertGreater(o["memory_plan"]["total"], o["memory_plan"]["weights"])
        text = self.succeed("inspect", TINY).decode()
        self.assertIn("token_embd.weight", text)
        folder = json.loads(self.succeed("inspect", TINY.parent, "--json"))
        self.assertEqual(folder["format"], "safetensors")
        self.assertEqual(folder["parameters"], o["parameters"])

    def test_doctor(self):
        text = self.succeed("doctor").decode()
        for word in ("processor", "kernels", "memory", "bandwidth", "GPU", "smollm2"):
            self.assertIn(word, text)
        self.assertRegex(text, r"\d GB/s")


class Configuration(ProgramTest):
    def effective(self, *arguments, **options):
        return tomllib.loads(self.succeed("serve", *arguments, "--print-config", **options).decode())

    def test_what_is_printed_can_be_read_back(self):
        printed = self.succeed("serve", TINY, "--port", "8123", "--api-key", "k1", "--api-key", "k2", "--print-config")
        o = tomllib.loads(printed.decode())
        self.assertEqual(o["port"], 8123)
        self.assertEqual(o["host"], "127.0.0.1")
        self.assertEqual(o["api-key"], ["k1", "k2"])
        self.assertEqual(o["model"], str(TINY))
        self.assertEqual(self.effective("--config", self.file("c.toml", printed)), o)
        for line in printed.decode().splitlines():
            self.assertRegex(line, r"^(#.*|[a-z-]+ = .+|)$")

    def test_command_line_before_environment_before_file(self):
        config = self.file("c.toml", 'max-num-seqs = 3\nmax-requests = 33\nkv-cache-dtype = "f32"\n')
        o = self.effective("--config", config, "--max-num-seqs", "7", TROUPE_MAX_NUM_SEQS=5, TROUPE_MAX_REQUESTS=55)
        self.assertEqual((o["max-num-seqs"], o["max-requests"], o["kv-cache-dtype"]), (7, 55, "f32"))

    def test_sizes_may_have_units(self):
        sizes = {"0": 0, "4096": 4096, "4096B": 4096, "64k": 64 << 10, "512M": 512 << 20, "8G": 8 << 30, "1.5G": 3 << 29, "8GiB": 8 << 30, "8gib": 8 << 30, "8Gi": 8 << 30,
                 "8GB": 8 * 10**9, "0.5TB": 5 * 10**11, "2T": 2 << 40, "250MB": 250 * 10**6, "9007199254740993": 9007199254740993}
        for text, n in sizes.items():
            with self.subTest(text=text):
                o = self.effective("--kv-cache-memory-bytes", text, TROUPE_MAX_BODY_BYTES=text)
                self.assertEqual((o["kv-cache-memory-bytes"], o["max-body-bytes"]), (n, n))
        file = 'kv-cache-memory-bytes = "1.5G"\nmax-body-bytes = 65536\n'
        o = self.effective("--config", self.file("c.toml", file))
        self.assertEqual((o["kv-cache-memory-bytes"], o["max-body-bytes"]), (3 << 29, 65536))
        for text in ("", "G", "8X", "8Gb1", "8 G", "-1", "-1G", "1.5", ".5G", "1.G", "1..5G", "1.-5G", "1e3", "1.5e3G", "nan", "inf", "0x10", "8i", "16777216T",
                     "99999999999999999999"):
            with self.subTest(text=text):
                self.fail_with(2, "generate", TINY, "--prompt", "x", f"--kv-cache-memory-bytes={text}", names="--kv-cache-memory-bytes")
        self.fail_with(2, "serve", TROUPE_MAX_BODY_BYTES="8X", names=("TROUPE_MAX_BODY_BYTES (--max-body-bytes): '8X' is not a size",))
        self.fail_with(2, "serve", "--config", self.file("c.toml", 'max-body-bytes = "8X"\n'), names=("c.toml: --max-body-bytes: '8X' is not a size",))
        self.assertIn("8GB (in 1000s)", " ".join(self.succeed("serve", "--help").decode().split()))

    def test_errors_in_the_file_name_the_place(self):
        self.fail_with(2, "serve", "--config", self.file("c.toml", "max-num-seq = 3\n"), names=("max-num-seq", "max-num-seqs"))
        self.fail_with(2, "serve", "--config", self.file("c.toml", "port = 1\n= 3\n"), names=("c.toml", "line 2"))
        self.fail_with(2, "serve", "--config", self.file("c.toml", 'max-num-seqs = "some"\n'), names="max-num-seqs")
        self.fail_with(2, "serve", "--config", self.file("c.toml", "port = {a = 1}\n"), names="port")
        self.fail_with(2, "serve", "--config", self.file("c.toml", 'max-model-len = "long"\n'), names=("c.toml: --max-model-len: 'long'",))
        self.fail_with(2, "serve", "--config", self.folder / "absent.toml", names="absent.toml")

    def test_secrets_stay_out_of_process_lists_when_they_come_from_the_environment(self):
        self.assertEqual(self.effective(TROUPE_API_KEY="k9")["api-key"], ["k9"])


if __name__ == "__main__":
    unittest.main()
