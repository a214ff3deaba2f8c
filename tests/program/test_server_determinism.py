"""The same request gives the same text over HTTP, whatever else the server does and however it was started."""
import random
import threading
import unittest

from support import SMOLLM2, TINY, ProgramTest, Server, need_smollm2

STORY = " ".join(f"Word {i} of a long story about number {i * i % 97}." for i in range(14))
QUESTIONS = [
    ("/v1/completions", {"prompt": STORY, "max_tokens": 60, "temperature": 0}),
    ("/v1/completions", {"prompt": "Once", "max_tokens": 100, "temperature": 0}),
    ("/v1/completions", {"prompt": STORY[:100], "max_tokens": 60, "temperature": 0.9, "seed": 7}),
    ("/v1/completions", {"prompt": STORY[:60], "max_tokens": 60, "temperature": 1.2, "seed": 2**60, "top_p": 0.9, "top_k": 50}),
    ("/v1/completions", {"prompt": "Once", "max_tokens": 50, "seed": 11, "n": 3, "frequency_penalty": 0.5, "repetition_penalty": 1.2}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Say something about the sea."}], "max_tokens": 60, "seed": 3}),
]


def text_of(choice):
    return choice["text"] if "text" in choice else choice["message"]["content"]


class Determinism(ProgramTest):
    model = TINY

    def answer(self, server, question, stream=False):
        """The texts of a question's choices, in order."""
        path, body = question
        body = {**body, "ignore_eos": True}
        if not stream:
            reply = server.post(path, body)
            self.assertEqual(reply.status, 200, reply)
            return [text_of(c) for c in sorted(reply.json["choices"], key=lambda c: c["index"])]
        texts = [""] * body.get("n", 1)
        for event in server.stream(path, body):
            for choice in event["choices"] if event != "[DONE]" else []:
                texts[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
        return texts

    def alone(self, *options, questions=QUESTIONS):
        with Server(self.model, *options) as server:
            return [self.answer(server, q) for q in questions]

    def among_others(self, *options, others=31, metric=None):
        """Every question while `others` requests run, half of all as streams; and the metric's value."""
        source = random.Random(5)
        got = [None] * len(QUESTIONS)
        with Server(self.model, *options) as server:
            def ask(i):
                got[i] = self.answer(server, QUESTIONS[i], stream=bool(i % 2))

            def disturb(seed):
                self.answer(server, ("/v1/completions", {"prompt": STORY[:5 + 13 * seed % 300], "max_tokens": 20 + 7 * seed % 90, "seed": seed,
                                                         "temperature": 1}), stream=bool(seed % 2))

            threads = [threading.Thread(target=disturb, args=(k,)) for k in range(others)]
            threads += [threading.Thread(target=ask, args=(i,)) for i in range(len(QUESTIONS))]
            source.shuffle(threads)
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            return got, server.metrics()[metric] if metric else None

    def test_the_same_request_gives_the_same_text(self):
        want = self.alone()
        texts = [t for texts in want for t in texts]
        self.assertEqual(len(set(texts)), len(texts), "questions that all get one answer show nothing")
        self.assertTrue(all(len(t) > 20 for t in texts), texts)
        with self.subTest("alone again, as streams"), Server(self.model) as server:
            self.assertEqual([self.answer(server, q, stream=True) for q in QUESTIONS], want)
        with self.subTest("among others"):
            self.assertEqual(self.among_others()[0], want)
        for options in (("--max-num-batched-tokens", 16, "--max-num-seqs", 5), ("--max-num-batched-tokens", 1, "--max-num-seqs", 1),
                        ("--threads", 1), ("--threads", 2)):
            with self.subTest(options):
                self.assertEqual(self.alone(*options), want)
        for options in (("--max-num-batched-tokens", 33, "--max-num-seqs", 9), ("--threads", 2), ("--text-threads", 3), ("--fold-threads",),
                        ("--tensor-parallel-size", 2), ("--tensor-parallel-size", 4, "--fold-threads"),
                        ("--fold-threads", "--text-threads", 2, "--http-threads", 2)):
            with self.subTest(options, others=31):
                self.assertEqual(self.among_others(*options)[0], want)
        with self.subTest("after preemption"):
            got, preemptions = self.among_others("--kv-cache-memory-bytes", self.pages(40), "--max-num-seqs", 16,
                                                 metric="vllm:num_preemptions_total")
            self.assertGreater(preemptions, 0)
            self.assertEqual(got, want)

    def pages(self, n):
        """The bytes of n pages of 16 tokens, all layers: keys and values of f16."""
        layers, kv_heads, head_dim = 3, 4, 16
        return n * 16 * layers * 2 * kv_heads * head_dim * 2


class RealText(Determinism):
    """The same of a model that writes text, in fewer ways because it takes longer."""
    model = SMOLLM2

    def test_the_same_request_gives_the_same_text(self):
        need_smollm2(self)
        questions = [QUESTIONS[0], QUESTIONS[2]]
        want = self.alone("--threads", 1, questions=questions)
        for options in (("--threads", 2), ("--max-num-batched-tokens", 24, "--max-num-seqs", 8)):
            with self.subTest(options):
                self.assertEqual(self.alone(*options, questions=questions), want)


if __name__ == "__main__":
    unittest.main()
