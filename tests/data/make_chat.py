"""Chat templates and what transformers renders with them.

python make_chat.py                    text/chat_styles.jsonl: the templates in text/chat_styles (own wording, in the styles of public models)
python make_chat.py --models DIR       text/chat_models.jsonl: from DIR/NAME/{tokenizer_config.json, chat.jsonl}, chat.jsonl having lines
                                       {messages, tools?, vars?, add_generation_prompt, rendered | error}

First line: {"conversations": [{"messages", "tools"?}, ...]}, then one line per template:
{"name", "template", "special_tokens", "now"?, "cases": [{"c": conversation, "g": add_generation_prompt, "vars"?, "r" | "e"}]}.
"""
import datetime, glob, json, os, sys

HERE = os.path.dirname(os.path.abspath(__file__))
TEXT = os.path.join(HERE, "text")
NOW = (2025, 3, 9, 14, 5, 7)


def content(token): return token["content"] if isinstance(token, dict) else token


def write(path, conversations, templates):
    with open(path, "w", encoding="utf-8") as f:
        for line in [{"conversations": conversations}, *templates]: f.write(json.dumps(line, ensure_ascii=False) + "\n")
    cases = sum(len(t["cases"]) for t in templates)
    print(f"{os.path.basename(path)}: {len(templates)} templates, {cases} cases, {sum('e' in c for t in templates for c in t['cases'])} errors, {os.path.getsize(path) // 1024} KB")


def models(folder):
    conversations, templates, seen = [], [], set()
    for path in sorted(glob.glob(os.path.join(folder, "*", "chat.jsonl"))):
        home = os.path.dirname(path)
        config = json.load(open(os.path.join(home, "tokenizer_config.json"), encoding="utf-8"))
        special = {k: content(config[k]) for k in ("bos_token", "eos_token", "unk_token", "pad_token") if config.get(k)}
        key = json.dumps([config["chat_template"], special])
        if key in seen: continue
        seen.add(key)
        cases = []
        for line in open(path, encoding="utf-8"):
            r = json.loads(line)
            talk = {k: r[k] for k in ("messages", "tools") if k in r}
            if talk not in conversations: conversations.append(talk)
            case = {"c": conversations.index(talk), "g": r["add_generation_prompt"]}
            if "vars" in r: case["vars"] = r["vars"]
            case["r" if "rendered" in r else "e"] = r.get("rendered", r.get("error"))
            cases.append(case)
        if any(t["template"] == config["chat_template"] for t in templates): cases = cases[:6]   # other special tokens
        templates.append({"name": os.path.basename(home), "template": config["chat_template"], "special_tokens": special, "cases": cases})
    write(os.path.join(TEXT, "chat_models.jsonl"), conversations, templates)


def talks():
    u = lambda c, **k: {"role": "user", "content": c, **k}
    a = lambda c, **k: {"role": "assistant", "content": c, **k}
    s = lambda c: {"role": "system", "content": c}
    call = lambda name, args, i="abcdef123": {"type": "function", "id": i, "function": {"name": name, "arguments": args}}
    tool = lambda c, **k: {"role": "tool", "name": "weather", "content": c, "tool_call_id": "abcdef123", **k}
    tools = [{"type": "function", "function": {"name": "weather", "description": "Tells the weather <now> & \"soon\"", "parameters": {"type": "object", "properties": {
                  "city": {"type": "string", "description": "Größe, 名"}, "days": {"type": "array", "items": {"type": "integer"}, "description": "which days"},
                  "unit": {"type": "string", "enum": ["C", "F"], "default": "C"}, "where": {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": "number", "description": "x"}}, "required": ["lat"]},
                  "flags": {"type": ["string", "null"]}, "either": {"oneOf": [{"type": "string", "description": "a"}, {"type": "boolean", "default": True}]}, "many": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}}, "required": ["city"]}, "return": {"type": "string"}}},
             {"type": "function", "function": {"name": "noop", "description": "does nothing", "parameters": {"type": "object", "properties": {}}}}]
    return [
        {"messages": [u("Hello")]}, {"messages": [s("Be brief. /no_think"), u("Hi\n")]}, {"messages": [s("  spaced  "), u("  a  "), a("  b  "), u("c\n\n")]}, {"messages": [u("1"), a("2"), u("3"), a("4")]},
        {"messages": [u("{{ not }} {% tpl %} <tag> & 'x' é 日本 😀 \"q\" \\ back")]}, {"messages": [u("x"), a("<think>\nhm\n</think>\n\nyes"), u("more"), a("<think>two</think>done")]},
        {"messages": [u("what weather?")], "tools": tools}, {"messages": [s("S"), u("what?"), a("", tool_calls=[call("weather", {"city": "Köln", "n": 3, "ok": True, "f": 0.5, "z": None, "l": ["é", "<b>"]})]), tool('{"t": 21.5}'), a("21"), u("and now?")], "tools": tools},
        {"messages": [u("q"), a(None, tool_calls=[call("weather", "{\"raw\": 1}"), call("noop", "{}", "x")]), tool("one"), tool("two"), a("end")], "tools": tools}, {"messages": [u("q"), a("ans", reasoning_content="because"), u("r")]},
        {"messages": [u("q"), a("ans", thinking="so")]}, {"messages": [u("q"), a("", thinking="go", tool_calls=[call("noop", {})]), tool("t")], "tools": tools}, {"messages": [u("a"), u("b")]}, {"messages": [a("first")]}, {"messages": [{"role": "critic", "content": "odd"}]},
        {"messages": [u([{"type": "text", "text": " part one "}, {"type": "image", "url": "x"}, {"type": "text", "text": "two"}])]}, {"messages": [u("x"), tool({"k": [1, 2.5, None, True], "é": "日"})]}, {"messages": [u("x"), a("y", name="bot"), tool([{"output": "o"}, "p"])]}, {"messages": []}, {"messages": [s("only")]},
        {"messages": [s("/system_override You are X. /think"), u("y")]}, {"messages": [u("no tools"), a("ok")], "tools": []},
    ]


VARIANTS = {"llama3_tools": [{}, {"tools_in_user_message": False}, {"date_string": "1 Jan 2020", "builtin_tools": ["search", "code_interpreter", "weather"]}], "gpt_oss": [{}, {"reasoning_effort": "high", "model_identity": "You are T."}], "smollm3": [{}, {"enable_thinking": False, "python_tools": ["def f(): pass"]}],
            "glm_thinking": [{}, {"enable_thinking": False}], "command_r": [{}, {"documents": [{"title": "T", "text": "x"}, {"title": "U", "text": "y"}]}], "granite_docs": [{}, {"thinking": True, "controls": {"length": "short"}}, {"documents": [{"text": "d1"}, {"text": "d2"}]}], "kimi_parts": [{}, {"thinking": False}]}


def styles():
    from transformers.utils import chat_template_utils as u
    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz=None): return cls(*NOW)
    u.datetime = Frozen
    conversations, templates = talks(), []
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    for path in sorted(glob.glob(os.path.join(TEXT, "chat_styles", "*.jinja"))):
        name = os.path.basename(path)[:-6]
        source = open(path, encoding="utf-8", newline="").read()
        cases = []
        for i, talk in enumerate(conversations):
            for extra in VARIANTS.get(name, [{}]):
                if extra and i % 3: continue   # keeps the file small
                for gen in (True, False) if not extra and i % 4 == 0 else (True,):
                    case = {"c": i, "g": gen}
                    if extra: case["vars"] = extra
                    given = {**special, **extra}
                    documents = given.pop("documents", None)
                    try:
                        case["r"] = u.render_jinja_template([talk["messages"]], tools=talk.get("tools"), documents=documents, chat_template=source, add_generation_prompt=gen, **given)[0][0]
                    except Exception as e:
                        case["e"] = f"{type(e).__name__}: {e}"
                    cases.append(case)
        templates.append({"name": name, "template": "chat_styles/" + name + ".jinja", "special_tokens": special, "now": list(NOW), "cases": cases})
    write(os.path.join(TEXT, "chat_styles.jsonl"), conversations, templates)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--models"]: models(sys.argv[2])
    else: styles()
