#!/usr/bin/env python3
"""Makes tests/data/text/tokenizer: vocab-only GGUF files of small tokenizers, trained here, with what Hugging Face's
`tokenizers` says about a list of texts; and smollm2.jsonl, the same for the vocabulary of SmolLM2.

    pip install tokenizers sentencepiece gguf
    make_tokenizers.py [--smollm2 SmolLM2-135M-Instruct.gguf] [--check FOLDER OUT]

--check: no fixtures; turns every FOLDER/*/tokenizer.json with cases.jsonl beside it into OUT/NAME.gguf and .jsonl, to
try the tests on other sets.
"""
import argparse, glob, io, json, os, pydoc_data.topics, random
import gguf, sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.decoders import DecodeStream

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "text", "tokenizer")

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CAPITALS, SMALLS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
CASED = lambda tail: r"[^\r\n\p{L}\p{N}]?" + CAPITALS + "*" + SMALLS + "+" + tail + r"|[^\r\n\p{L}\p{N}]?" + CAPITALS + "+" + SMALLS + "*" + tail
PATTERNS = {
    "llama-bpe": [LLAMA3],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
    "gpt-4o": [CASED(CONTRACTIONS + "?") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES],
    "tekken": [CASED("") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES],
    "deepseek-v3": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
                    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + SPACES],
}
BYTE_LEVEL = ["gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "tekken", "deepseek-v3"]
SENTENCEPIECE = ["llama", "gemma", "phi3"]
SPECIALS = ["<|begin|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"]
PLAIN = ["<think>", "<tool｜call>"]

TEXTS = [
    "", " ", "   ", "\n", "\n\n\n", "\t", "\r\n", " \n ", "a", " a", "a ", "Hello world", "Hello  world   again    four",
    "It's they're I'VE we'll he'D 'tis rock'n'roll o'clock 'S", "  indented\n    more\n\tand a tab\n", "trailing spaces   ", "trailing newline\n",
    "1 12 123 1234 1234567890", "3.14 1,000.5 0xFF 1e-9 ½ ² ٣٤ Ⅷ", "x=1;y+=2;//c\nfor(i=0;i<n;++i){a[i]^=~b;}", "def f(x):\n    return x**2  # square\n\n\nclass A: pass",
    "https://example.org/a?b=c&d=%20#e", "snake_case camelCase PascalCase SCREAMING_CASE kebab-case HTMLParser iPhone", "ÀÉÎõü straße ŒUVRE naïve café",
    "e\u0301a\u0308n\u0303 decomposed", "Привет, мир! Ещё раз.", "Καλημέρα κόσμε", "שלום עולם", "مرحبا بالعالم ١٢٣", "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界。今天天气很好", "日本語とカタカナ、ひらがな", "안녕하세요 세계",
    "😀 👍🏿 👩‍👩‍👧‍👦 🇩🇪", "text😀text", "𝔘𝔫𝔦 𐍈 𠜎", "nbsp\u00a0em\u2003ideo\u3000zwsp\u200bjoin\u200d", "\u180emongolian vowel separator", "nel\u0085ls\u2028ps\u2029end", "\x00\x01\x7f controls",
    "\ufffd replacement", "▁ literal ▁▁ metaspace▁", "Ġ literal Ċ alphabet", "<0x41> <0xFF> not bytes", "!!!???...---===", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ſ 'ſ K\u212a long s and kelvin 'S 'ſ",
    "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b <|im_end|> c<|im_end", "<think>hm</think> <think> x", "<|begin|><|begin|>", "  <|im_end|>  spaces  <|im_end|>\n\n x", "<tool｜call>{\"a\": 1}<tool｜call>",
    "ΑΣ ΐ İıĿ ǅ ǆ ʼn", "\n \n \n x \n  y", "tab\t\ttabs\t x", "\u0300\u0301 marks first", "end.\r\n\r\nnext", "«quotes» “curly” ‘single’ — dash … dots",
]


def corpus():
    r = random.Random(7)
    lines = [l.strip() for k in sorted(pydoc_data.topics.topics) for l in pydoc_data.topics.topics[k].splitlines() if len(l) > 20]
    r.shuffle(lines)
    return lines[:800] + [t for t in TEXTS if "<|" not in t and "\x00" not in t] * 25


def byte_level(name, vocab=900):
    tok = Tokenizer(models.BPE())
    if name == "qwen2": tok.normalizer = normalizers.NFC()
    whole = name in ("llama-bpe", "tekken")
    split = [pre_tokenizers.Split(Regex(p), "isolated") for p in PATTERNS.get(name, [])]
    if name == "smollm": split = [pre_tokenizers.Digits(individual_digits=True)]
    tok.pre_tokenizer = pre_tokenizers.Sequence(split + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name not in PATTERNS)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if whole:  # some tokens that no merge leads to, for ignore_merges
        j = json.loads(tok.to_str())
        for t in ("Hello", "Ġworld", "ĠagainĠ"): j["model"]["vocab"].setdefault(t, len(j["model"]["vocab"]))
        j["model"]["ignore_merges"] = True
        tok = Tokenizer.from_str(json.dumps(j))
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in PLAIN])
    bos = "<|begin|>"
    if whole:
        tok.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tok.token_to_id(bos))])
    return tok, dict(model="gpt2", pre=name, bos=bos, eos="<|im_end|>", unk=None, add_bos=whole)


def read_pieces(model):
    """(text, score, type) by id; types as in GGUF. User-defined pieces are normal ones here: see write_gguf."""
    sp = sentencepiece.SentencePieceProcessor(model_proto=model)
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1
    return [(sp.id_to_piece(i), sp.get_score(i), kind(i)) for i in range(sp.get_piece_size())]


def sentence_piece(name, vocab=800):
    buffer = io.BytesIO()
    gemma = name == "gemma"
    args = dict(control_symbols=["<start_of_turn>"], user_defined_symbols=["\n", "\n\n", "▁▁", "▁▁▁", "<table>"]) if gemma else {}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=buffer, model_type="bpe", vocab_size=vocab, byte_fallback=True, character_coverage=0.98, num_threads=1, minloglevel=2,
        split_digits=True, allow_whitespace_only_pieces=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=not gemma, unk_id=0, bos_id=1, eos_id=2, **args)
    pieces = read_pieces(buffer.getvalue())
    ids = {p: i for i, (p, _, _) in enumerate(pieces)}
    merges = [(-s, ids[p[:i]], ids[p[i:]], p[:i], p[i:]) for p, s, t in pieces if t in (1, 4) for i in range(1, len(p)) if p[:i] in ids and p[i:] in ids]
    tok = Tokenizer(models.BPE(vocab=ids, merges=[m[3:] for m in sorted(merges)], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence(([] if gemma else [normalizers.Prepend("▁")]) + [normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()] + ([] if gemma else [decoders.Strip(" ", 1, 0)]))
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ["<unk>", "<s>", "</s>"] + args.get("control_symbols", [])])
    if name == "phi3": tok.add_special_tokens([AddedToken(t, special=True, normalized=False, rstrip=True) for t in ["<|im_start|>", "<|im_end|>"]])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in args.get("user_defined_symbols", [])])
    return tok, dict(model="llama", pre="default", bos="<s>", eos="</s>", unk="<unk>", add_bos=True, pieces=pieces, space_prefix=not gemma)


def write_gguf(path, tok, info, name):
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(name); w.add_tokenizer_model(info["model"]); w.add_tokenizer_pre(info["pre"])
    j = json.loads(tok.to_str())
    added = {t["id"]: t for t in j["added_tokens"]}
    voc = {i: t for t, i in tok.get_vocab(with_added_tokens=True).items()}
    n = max(voc) + 3  # two ids that pad the vocabulary, as in real files
    toks, types, scores = [], [], []
    for i in range(n):
        toks.append(voc.get(i, f"[PAD{i}]"))
        piece = info["pieces"][i] if i < len(info.get("pieces", [])) else None
        types.append(5 if i not in voc else 4 if i in added and not added[i]["special"] else piece[2] if piece else 3 if i in added else 1)
        scores.append(piece[1] if piece else -1000.0)
    w.add_token_list(toks); w.add_token_types(types)
    if info["model"] == "llama": w.add_token_scores(scores); w.add_add_space_prefix(info["space_prefix"])
    else: w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in j["model"]["merges"]])
    for key, add in (("bos", w.add_bos_token_id), ("eos", w.add_eos_token_id), ("unk", w.add_unk_token_id)):
        if info[key]: add(tok.token_to_id(info[key]))
    w.add_add_bos_token(info["add_bos"])
    w.write_header_to_file(); w.write_kv_data_to_file(); w.close()


def cases(tok, texts):
    """Lines {text, ids without specials, and what differs: bos ids, ids with specials as text, stream of texts}."""
    special = [t.content for t in tok.get_added_tokens_decoder().values() if t.special]
    for text in texts:
        ids = tok.encode(text, add_special_tokens=False).ids
        line = {"text": text, "ids": ids, "prefix": len(tok.encode(text, add_special_tokens=True).ids) - len(ids)}
        if any(s in text for s in special):
            tok.encode_special_tokens = True
            line["plain"] = tok.encode(text, add_special_tokens=False).ids
            tok.encode_special_tokens = False
        line["decoded"] = tok.decode(ids, skip_special_tokens=False)
        line["skipped"] = tok.decode(ids, skip_special_tokens=True)
        for key in ("decoded", "skipped"):
            if line[key] == text: del line[key]
        if any(ord(c) > 127 for c in text) and "\ufffd" not in text:
            stream = DecodeStream(skip_special_tokens=True)
            line["stream"] = [stream.step(tok, i) or "" for i in ids]
        yield line


def dump(path, lines):
    with open(path, "w", encoding="utf-8") as f:
        for line in lines: f.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def smollm2(path):
    r = gguf.GGUFReader(path)
    strings = lambda key: [bytes(r.fields[key].parts[i]).decode() for i in r.fields[key].data]
    tokens, merges = strings("tokenizer.ggml.tokens"), strings("tokenizer.ggml.merges")
    types = [int(r.fields["tokenizer.ggml.token_type"].parts[i][0]) for i in r.fields["tokenizer.ggml.token_type"].data]
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges]))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])
    rnd = random.Random(11)
    ranges = [(0x20, 0x7e), (0x20, 0x7e), (0x61, 0x7a), (0xa1, 0x17f), (0x370, 0x3ff), (0x400, 0x4ff), (0x5d0, 0x5ea), (0x620, 0x64a), (0x904, 0x939), (0xe01, 0xe30),
              (0x4e00, 0x9fa5), (0x3041, 0x3096), (0xac00, 0xd7a3), (0x1f300, 0x1f64f), (0x300, 0x36f), (0x2000, 0x206f), (0x2190, 0x22ff)]
    words = " ".join(corpus()[:300]).split()
    texts = list(TEXTS)
    own = open(__file__, encoding="utf-8").read().splitlines()
    texts += ["\n".join(own[i:i + 2])[:240] for i in range(20, 120, 5)]
    while len(texts) < 200:
        s = ""
        for _ in range(rnd.randint(1, 9)):
            k = rnd.random()
            a, b = rnd.choice(ranges)
            s += rnd.choice(words) if k < .5 else str(rnd.randrange(10 ** rnd.randint(1, 9))) if k < .6 else "".join(chr(rnd.randint(a, b)) for _ in range(rnd.randint(1, 5)))
            s += rnd.choice([" ", " ", " ", "  ", "\n", "\t", "\r\n", "\n\n", "   ", ""])
        texts.append(s)
    dump(os.path.join(OUT, "smollm2.jsonl"), ({"text": t, "ids": tok.encode(t, add_special_tokens=False).ids} for t in texts))


def check(folder, out):
    names = {"gpt2": ("gpt2", "gpt-2"), "starcoder": ("gpt2", "starcoder"), "llama3": ("gpt2", "llama-bpe"), "qwen2": ("gpt2", "qwen2"), "o200k": ("gpt2", "gpt-4o"), "deepseek": ("gpt2", "deepseek-v3"),
             "llama2": ("llama", "default"), "phi3": ("llama", "default"), "gemma": ("llama", "default")}
    os.makedirs(out, exist_ok=True)
    for path in sorted(glob.glob(os.path.join(folder, "*", "tokenizer.json"))):
        d = os.path.dirname(path); name = os.path.basename(d)
        if name not in names: continue
        model, pre = names[name]
        tok = Tokenizer.from_file(path)
        first = tok.encode("a", add_special_tokens=True).tokens[0]
        added = [t.content for t in tok.get_added_tokens_decoder().values()]
        info = dict(model=model, pre=pre, bos=first if first in added else None, eos=None, unk="<unk>" if model == "llama" else None, add_bos=first in added)
        if model == "llama":
            info.update(pieces=read_pieces(open(os.path.join(d, "tokenizer.model"), "rb").read()), space_prefix=name != "gemma")
        write_gguf(os.path.join(out, name + ".gguf"), tok, info, name)
        texts = list(dict.fromkeys(json.loads(l)["text"] for l in open(os.path.join(d, "cases.jsonl"), encoding="utf-8")))
        dump(os.path.join(out, name + ".jsonl"), cases(tok, texts))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--smollm2"); p.add_argument("--check", nargs=2)
    a = p.parse_args()
    if a.check: return check(*a.check)
    os.makedirs(OUT, exist_ok=True)
    for name in BYTE_LEVEL + SENTENCEPIECE:
        tok, info = (byte_level if name in BYTE_LEVEL else sentence_piece)(name)
        write_gguf(os.path.join(OUT, name + ".gguf"), tok, info, name)
        dump(os.path.join(OUT, name + ".jsonl"), cases(tok, TEXTS))
    if a.smollm2: smollm2(a.smollm2)


if __name__ == "__main__":
    main()
