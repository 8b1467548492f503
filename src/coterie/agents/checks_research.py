"""Checks of what research code asks for beyond OpenAI's API: vLLM's fields, scores, batches as files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from coterie.agents.checks import Absent, Client, Failed, check, expect, honoured, ok
from coterie.agents.checks_chat import choice

WAIT = 120.0  # seconds that a batch of one request may take
COLOURS = ("crimson", "teal")


def _continued(client: Client, prompt: str, **fields: Any) -> dict[str, Any]:
    """A completion with fields that a server need not know. Errors: `Absent` when it does not honour them."""
    return dict(honoured(client.complete(prompt, **fields), ", ".join(fields), *fields))


@check("research", "min_tokens and ignore_eos", needed=False)
def lengths(client: Client) -> None:
    """With either, a reply has all tokens of max_tokens."""
    for fields in ({"ignore_eos": True}, {"min_tokens": 12}):
        data = _continued(client, "The cat", max_tokens=12, **fields)
        count = data["usage"]["completion_tokens"]
        expect(count == 12, f"{fields}: {count} tokens for max_tokens 12")
        reason = data["choices"][0]["finish_reason"]
        expect(reason == "length", f"{fields}: finish_reason is {reason!r}")


@check("research", "prompt_logprobs", needed=False)
def scored(client: Client) -> None:
    """They are the numbers that `echo` with `logprobs` gives."""
    data = _continued(client, "The cat sat", max_tokens=1, prompt_logprobs=1)
    listed = data["choices"][0].get("prompt_logprobs")
    expect(listed, "prompt_logprobs was accepted and left out")
    echoed = client.complete("The cat sat", max_tokens=1, echo=True, logprobs=1)
    values = honoured(echoed, "echo with logprobs", "echo")["choices"][0]["logprobs"]["token_logprobs"]
    count = data["usage"]["prompt_tokens"]
    expect(len(listed) == count and listed[0] is None, f"{len(listed)} entries for {count} tokens")
    for place, (entry, value) in enumerate(zip(listed[1:], values[1:count], strict=True), 1):
        near = min(abs(one["logprob"] - value) for one in entry.values())
        expect(near < 1e-3, f"token {place}: no entry has the log-probability {value} of echo")


@check("research", "truncate_prompt_tokens", needed=False)
def truncated(client: Client) -> None:
    """The prompt is cut to the number of tokens asked for."""
    used = _continued(client, "The cat sat on the mat", truncate_prompt_tokens=3)["usage"]["prompt_tokens"]
    expect(used == 3, f"{used} prompt tokens for truncate_prompt_tokens 3")


def _bound(client: Client, fields: Mapping[str, Any], older: Mapping[str, Any]) -> str:
    """A reply under vLLM's newer or older name of a constraint. Errors: `Absent` when neither is honoured."""
    try:
        data = honoured(client.chat("Say something else.", max_tokens=60, **fields), "it", *fields)
    except Absent:
        data = honoured(client.chat("Say something else.", max_tokens=60, **older), "it", *older)
    return str(choice(data)["message"].get("content"))


@check("research", "a choice of texts", needed=False)
def chosen(client: Client) -> None:
    """`structured_outputs.choice` or `guided_choice`: the reply is one of the texts."""
    colours = list(COLOURS)
    said = _bound(client, {"structured_outputs": {"choice": colours}}, {"guided_choice": colours})
    expect(said in COLOURS, f"the reply is {said[:60]!r}")


@check("research", "a regular expression", needed=False)
def matched(client: Client) -> None:
    """`structured_outputs.regex` or `guided_regex`: the whole reply matches."""
    said = _bound(client, {"structured_outputs": {"regex": "[ab]{3}[0-9]"}}, {"guided_regex": "[ab]{3}[0-9]"})
    right = len(said) == 4 and set(said[:3]) <= {"a", "b"} and said[3:].isdigit()
    expect(right, f"the reply is {said[:60]!r} for [ab]{{3}}[0-9]")


@check("research", "rerank and score", needed=False)
def ranked(client: Client) -> None:
    """`/v1/rerank` lists each text once, best first; `/v1/score` has one score for each pair."""
    texts = ["A dog barks.", "The cat sat.", "Rain falls."]
    asked: dict[str, Any] = {"model": client.model, "query": "The cat sat.", "documents": texts}
    found = honoured(client.post("/v1/rerank", asked), "/v1/rerank")["results"]
    scores = [result["relevance_score"] for result in found]
    expect(sorted(r["index"] for r in found) == [0, 1, 2], f"indices {[r['index'] for r in found]}")
    expect(scores == sorted(scores, reverse=True), f"not best first: {scores}")
    cut = ok(client.post("/v1/rerank", asked | {"top_n": 1}), "top_n")["results"]
    expect([r["index"] for r in cut] == [found[0]["index"]], "top_n 1 does not give the best text alone")
    pairs = {"model": client.model, "text_1": "The cat sat.", "text_2": texts}
    given = honoured(client.post("/v1/score", pairs), "/v1/score")["data"]
    expect([entry["index"] for entry in given] == [0, 1, 2], f"indices {[e['index'] for e in given]}")


@check("batches", "a file of requests", needed=False)
def batch(client: Client) -> str:
    """A file is kept and deleted, and a batch of it answers each request under its `custom_id`."""
    listed = client.send("GET", "/v1/files")
    ok(listed, "/v1/files")
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": client.chat_body()}
    content = json.dumps(line) + "\n"
    file = ok(_upload(client, content), "an upload to /v1/files")["id"]
    try:
        kept = client.send("GET", f"/v1/files/{file}/content")
        expect(kept.status == 200 and kept.text == content, "another content comes back than was sent")
        return _run(client, file)
    finally:
        client.send("DELETE", f"/v1/files/{file}")


def _upload(client: Client, content: str) -> Any:
    edge = "coterie-doctor"
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n',
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="doctor.jsonl"\r\n'
        f"Content-Type: application/jsonl\r\n\r\n{content}\r\n--{edge}--\r\n",
    ]
    label = {"content-type": f"multipart/form-data; boundary={edge}"}
    return client.send("POST", "/v1/files", content="".join(parts).encode(), headers=label)


def _run(client: Client, file: str) -> str:
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = ok(client.post("/v1/batches", asked), "/v1/batches")
    place = f"/v1/batches/{made['id']}"
    started = time.monotonic()
    while made["status"] in ("validating", "in_progress", "finalizing"):
        if time.monotonic() - started > WAIT:
            client.post(f"{place}/cancel", {})
            return f"the batch was still {made['status']} after {WAIT:.0f} s"
        time.sleep(0.05)
        answer = client.send("GET", place)
        expect(answer.status == 200, f"a batch that was made: status {answer.status} when fetched")
        made = answer.data
    if made["status"] != "completed":
        raise Failed(f"the batch is {made['status']}: {made.get('errors')}")
    lines = client.send("GET", f"/v1/files/{made['output_file_id']}/content").text.splitlines()
    answers = {one["custom_id"]: one["response"] for one in map(json.loads, filter(str.strip, lines))}
    expect([*answers] == ["one"], f"answers for {[*answers]}")
    alone = choice(ok(client.chat(), "chat"))["message"].get("content")
    batched = choice(answers["one"]["body"])["message"].get("content")
    expect(answers["one"]["status_code"] == 200 and batched == alone, "a batch gives another reply than chat")
    return f"{time.monotonic() - started:.1f} s for one request"
