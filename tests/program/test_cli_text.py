"""Text commands: tokenize, detokenize, template."""
import json
import unittest

from support import SMOLLM2, TINY, TINY_SPM, VOCAB, ProgramTest, ids_of, need_smollm2, run

TEXTS = [
    "Hello, world!", "  two  spaces   three\n\n\nlines\t\ttabs \r\n", "naïve café — “quotes” … ½", "日本語のテキスト、한국어, العربية",
    "emoji 🙂👩‍👩‍👧‍👦🇩🇪 and \u200b zero width", "1234567890 3.14159 1e-10", "a" * 3000, "def f(x):\n    return x**2  # square\n", " ", "\n", "\0 nul",
]


class Tokens(ProgramTest):
    def test_round_trips(self):
        need_smollm2(self)
        for model in (TINY, SMOLLM2):
            for text in TEXTS:
                with self.subTest(model=model.name, text=text[:20]):
                    line = self.succeed("tokenize", model, "--no-bos", stdin=text)
                    self.assertEqual(line.count(b"\n"), 1)
                    self.assertRegex(line, rb"^\d+( \d+)*\n$")
                    self.assertEqual(self.succeed("detokenize", model, stdin=line).decode(), text)
        # Sentencepiece puts a blank before the text that it takes away again; runs of blanks in front are its own business.
        for text in TEXTS[:1] + TEXTS[2:8]:
            line = self.succeed("tokenize", TINY_SPM, "--no-bos", stdin=text)
            self.assertEqual(self.succeed("detokenize", TINY_SPM, stdin=line).decode().strip(), text.strip())

    def test_text_is_taken_verbatim_from_a_file_or_stdin(self):
        text = "no newline is added or taken\r\n\r\n"
        path = self.file("text", text)
        from_file = self.succeed("tokenize", TINY, "--file", path)
        self.assertEqual(from_file, self.succeed("tokenize", TINY, stdin=text))
        self.assertEqual(from_file, self.succeed("tokenize", TINY, "--file", "-", stdin=text))
        ids = self.file("ids", self.succeed("tokenize", TINY, "--no-bos", stdin=text))
        for option in ("--tokens", "--file"):
            self.assertEqual(self.succeed("detokenize", TINY, option, ids).decode(), text)

    def test_empty_input(self):
        self.assertEqual(self.succeed("tokenize", TINY, "--no-bos", stdin=""), b"\n")
        self.assertEqual(self.succeed("detokenize", TINY, stdin=" \n"), b"")
        self.assertEqual(self.succeed("detokenize", TINY, "--stream", stdin=""), b"")

    def test_bos(self):
        plain = ids_of(self.succeed("tokenize", TINY, "--no-bos", stdin="hello"))
        self.assertEqual(ids_of(self.succeed("tokenize", TINY, stdin="hello")), [0] + plain)

    def test_special_tokens_in_text(self):
        text = "a<|im_end|>b"
        need_smollm2(self)
        parsed = ids_of(self.succeed("tokenize", SMOLLM2, "--no-bos", stdin=text))
        plain = ids_of(self.succeed("tokenize", SMOLLM2, "--no-bos", "--no-parse-special", stdin=text))
        self.assertIn(2, parsed)
        self.assertEqual(len(parsed), 3)
        self.assertNotIn(2, plain)
        both = " ".join(map(str, parsed))
        self.assertEqual(self.succeed("detokenize", SMOLLM2, stdin=both).decode(), text)
        self.assertEqual(self.succeed("detokenize", SMOLLM2, "--skip-special", stdin=both).decode(), "ab")

    def test_streamed_detokenizing(self):
        need_smollm2(self)
        for text in TEXTS:
            ids = self.succeed("tokenize", SMOLLM2, "--no-bos", stdin=text)
            lines = self.succeed("detokenize", SMOLLM2, "--stream", stdin=ids).decode("ascii").splitlines()
            with self.subTest(text=text[:20]):
                self.assertEqual(len(lines), len(ids.split()))
                pieces = [json.loads(line) for line in lines]
                self.assertTrue(all(isinstance(p, str) for p in pieces))
                self.assertEqual("".join(pieces), text)

    def test_a_character_that_never_ends_streams_nothing(self):
        need_smollm2(self)
        ids = self.succeed("tokenize", SMOLLM2, "--no-bos", stdin="𓀀").split()
        self.assertGreater(len(ids), 1, "the test wants a character of several tokens")
        lines = self.succeed("detokenize", SMOLLM2, "--stream", stdin=b" ".join(ids[:-1])).decode().splitlines()
        self.assertEqual(lines, ['""'] * (len(ids) - 1))

    def test_every_id_of_the_vocabulary_has_a_text(self):
        lines = self.succeed("detokenize", TINY, "--stream", stdin=" ".join(map(str, range(VOCAB)))).decode("ascii").splitlines()
        self.assertEqual(len(lines), VOCAB)

    def test_long_text_takes_linear_time(self):
        need_smollm2(self)
        for text in ("word " * 200_000, "x" * 1_000_000, "\n" * 300_000, "é" * 300_000):
            ids = self.succeed("tokenize", SMOLLM2, "--no-bos", stdin=text, timeout=60)
            self.assertEqual(self.succeed("detokenize", SMOLLM2, stdin=ids, timeout=60).decode(), text)


class Templates(ProgramTest):
    MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]

    def test_the_models_own_template(self):
        need_smollm2(self)
        messages = self.file("m.json", json.dumps(self.MESSAGES))
        chat = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        self.assertEqual(self.succeed("template", SMOLLM2, "--messages", messages).decode(), chat + "<|im_start|>assistant\n")
        self.assertEqual(self.succeed("template", SMOLLM2, "--messages", messages, "--no-generation-prompt").decode(), chat)

    def test_any_template(self):
        template = self.file("t.jinja", "{% for x in list %}{{ loop.index }}:{{ x | upper }};{% endfor %}{{ d.k }}")
        variables = self.file("v.json", json.dumps({"list": ["a", "ß"], "d": {"k": 1.5}}))
        self.assertEqual(self.succeed("template", "--template-file", template, "--vars", variables).decode(), "1:A;2:SS;1.5")

    def test_tools_and_extra_variables(self):
        template = self.file("t.jinja", "{{ tools[0].function.name }} {{ messages[0].content }} {{ add_generation_prompt }} {{ flavour }}")
        tools = self.file("tools.json", json.dumps([{"type": "function", "function": {"name": "look", "parameters": {}}}]))
        done = run("template", "--template-file", template, "--messages", self.file("m.json", json.dumps(self.MESSAGES)),
                   "--tools", tools, "--vars", self.file("v.json", '{"flavour": "mint"}'))
        self.assertEqual((done.stdout.decode(), done.returncode), ("look Be brief. True mint", 0), done.stderr)

    def test_errors(self):
        self.fail_with(2, "template", "--template-file", self.file("t.jinja", "{% for %}"), "--vars", self.file("v.json", "{}"), names="line 1")
        self.fail_with(2, "template", "--template-file", self.file("t.jinja", "{{ raise_exception('not like that') }}"),
                       "--vars", self.file("v.json", "{}"), names="not like that")
        self.fail_with(2, "template", "--template-file", self.file("t.jinja", "x"), "--vars", self.file("v.json", "{"), names="v.json")
        self.fail_with(2, "template", TINY, "--messages", self.file("m.json", '{"role": 1}'), names="m.json")
        self.fail_with(2, "template", TINY, "--messages", self.folder / "absent.json", names="absent.json")

    def test_endless_templates_end(self):
        for hostile in ("{% for a in range(999999) %}{% for b in range(999999) %}{% endfor %}{% endfor %}", "{{ 'x' * 99999999999 }}",
                        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}"):
            done = run("template", "--template-file", self.file("t.jinja", hostile), "--vars", self.file("v.json", "{}"), timeout=60)
            with self.subTest(hostile=hostile[:40]):
                self.assertEqual(done.returncode, 2, done.stderr[:300])


if __name__ == "__main__":
    unittest.main()
