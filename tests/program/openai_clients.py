"""openai_clients.py URL MODEL CLIENTS ROUNDS CASES: streams chats through the openai package's asynchronous client.

CASES is a JSON file: [{"messages": ..., "max_tokens": n, "text": what a lone run answers}]. Every fourth stream is left early.
Prints one JSON object: {"finished": n, "left": n, "errors": [...]}.
"""
import asyncio
import json
import sys

import openai


async def client(number, url, model, rounds, cases, report):
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=300) as api:
        for turn in range(rounds):
            case = cases[(number + turn) % len(cases)]
            leave = (number + turn) % 4 == 3
            try:
                stream = await api.chat.completions.create(model=model, messages=case["messages"], max_tokens=case["max_tokens"], temperature=0,
                                                           stream=True, stream_options={"include_usage": True})
                text, usage, reason, pieces = "", None, None, 0
                async for chunk in stream:
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        text += choice.delta.content or ""
                        reason = choice.finish_reason or reason
                    pieces += 1
                    if leave and pieces == 3:
                        break
                await stream.close()
                if leave:
                    report["left"] += 1
                    continue
                if text != case["text"]:
                    raise AssertionError(f"got {text!r} instead of {case['text']!r}")
                if reason not in ("stop", "length") or usage is None or usage.completion_tokens < 1:
                    raise AssertionError(f"reason {reason}, usage {usage}")
                report["finished"] += 1
            except Exception as e:
                report["errors"].append(f"client {number} round {turn}: {type(e).__name__}: {e}")


async def main(url, model, clients, rounds, path):
    with open(path) as f:
        cases = json.load(f)
    report = {"finished": 0, "left": 0, "errors": []}
    await asyncio.gather(*(client(i, url, model, int(rounds), cases, report) for i in range(int(clients))))
    print(json.dumps(report))


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
