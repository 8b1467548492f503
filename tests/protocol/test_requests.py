"""Wrong requests, accidental or malicious: one error envelope, quickly, and nothing runs."""

from __future__ import annotations

import json
import socket
import time
from urllib.parse import urlsplit

import openai
import pytest

from tests.serve.support import ASK, call, serving

CHAT = "/v1/chat/completions"
PATHS = [CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize", "/detokenize"]


def assert_envelope(answer, status, code=None):
    found, headers, body = answer
    assert found == status, body
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["code"], str) and "Traceback" not in body["error"]["message"]
    assert "/work" not in body["error"]["message"] and ".py" not in body["error"]["message"]
    assert headers["x-request-id"] and headers["content-security-policy"].startswith("default-src 'self'")
    if code is not None:
        assert body["error"]["code"] == code


BROKEN = {
    "no json": b"{",
    "not an object": b"[1]",
    "empty": b"",
    "twice": b'{"model": "tiny", "model": "small", "messages": []}',
    "nan": b'{"model": "tiny", "temperature": NaN}',
    "infinity": b'{"model": "tiny", "temperature": 1e999}',
    "deep": b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "fairly deep": b'{"model": ' + b"[" * 500 + b"]" * 500 + b"}",
    "long": json.dumps({"model": "tiny", "messages": [0] * 1_000_000}).encode(),
    "not utf-8": b'{"model": "\xff\xfe"}',
    "surrogate": b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "huge integer": b'{"model": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_bodies(server, path, kind):
    begun = time.monotonic()
    assert_envelope(call(server.url, "POST", path, BROKEN[kind]), 400, "invalid_json")
    assert time.monotonic() - begun < 2


WRONG = [
    ({"messages": []}, "/messages"),
    ({"messages": None}, "/messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "/messages/0/role"),
    ({"messages": [{"role": "user", "content": 3}]}, "/messages/0/content"),
    ({"messages": [{"role": "user"}]}, "/messages/0"),
    ({"messages": [{"role": "user", "content": "x", "reasning": "y"}]}, "/messages/0/reasning"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
     "/messages/0/content/0/image_url"),
    ({"temperature": "hot"}, "/temperature"),
    ({"temperature": 2.5}, "/temperature"),
    ({"temperature": True}, "/temperature"),
    ({"n": 10**6}, "/n"),
    ({"n": 1.5}, "/n"),
    ({"max_tokens": 2**31}, "/max_tokens"),
    ({"max_tokens": 0}, "/max_tokens"),
    ({"logprobs": True, "top_logprobs": 10**5}, "/top_logprobs"),
    ({"top_logprobs": 3}, "/top_logprobs"),
    ({"stop": ""}, "/stop"),
    ({"stop": [str(i) for i in range(10_000)]}, "/stop"),
    ({"logit_bias": {str(i): 1 for i in range(100_000)}}, "/logit_bias"),
    ({"logit_bias": {"999999": 1}}, "/logit_bias"),
    ({"logit_bias": {"-1": 1}}, "/logit_bias"),
    ({"seed": 2**70}, "/seed"),
    ({"top_p": -0.1}, "/top_p"),
    ({"presence_penalty": 3}, "/presence_penalty"),
    ({"response_format": {"type": "yaml"}}, "/response_format/type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "/tools/0/function/name"),
    ({"tool_choice": "perhaps"}, "/tool_choice"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "/stream_options/include_usage"),
    ({"stream_options": {"include_usage": True}}, "/stream_options"),
    ({"audio": {}}, "/audio"),
    ({"functions": [{"name": "f"}]}, "/functions"),
    ({"prediction": {}}, "/prediction/type"),
    ({"speculate": "much"}, "/speculate"),
    ({"web_search_options": {}}, "/web_search_options"),
    ({"chat_template": "{{ messages }}"}, "/chat_template"),
    ({"temprature": 1}, "/temprature"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "param"), WRONG)
def test_wrong_fields_are_pointed_at(server, more, param):
    answer = call(server.url, "POST", CHAT, {"model": "tiny", "messages": ASK, "max_tokens": 2, **more})
    assert_envelope(answer, 400)
    assert answer[2]["error"]["param"].startswith(param)


def test_a_misspelt_field_is_named(server):
    answer = call(server.url, "POST", CHAT, {"model": "tiny", "messages": ASK, "temprature": 1})
    assert "did you mean 'temperature'" in answer[2]["error"]["message"]


@pytest.mark.parametrize(
    ("more", "param"),
    [({"best_of": 4}, "/best_of"), ({"suffix": "x"}, "/suffix"), ({"prompt": []}, "/prompt"),
     ({"prompt": [[]]}, "/prompt"), ({"prompt": [1, -2]}, "/prompt"),
     ({"prompt": [10**9]}, "/prompt"),
     ({"prompt": ["a", 3]}, "/prompt"),
     ({"logprobs": 21}, "/logprobs"), ({"prompt": ["x"] * 2000}, "/prompt")],
)  # fmt: skip
def test_wrong_completions(server, more, param):
    answer = call(server.url, "POST", "/v1/completions", {"model": "tiny", "prompt": "a", **more})
    assert_envelope(answer, 400)
    assert answer[2]["error"]["param"].startswith(param)


def test_every_field_of_the_contract_is_honoured_reported_or_refused(server):
    """Fields that clients send: none may vanish without a word."""
    from coterie.protocol.field_table import EXTRAS
    from coterie.protocol.requests import ChatRequest

    contract = """
        model messages max_tokens max_completion_tokens temperature top_p stop n seed stream
        stream_options tools tool_choice parallel_tool_calls response_format logprobs top_logprobs
        logit_bias presence_penalty frequency_penalty reasoning_effort user top_k min_p
        repetition_penalty chat_template_kwargs continue_final_message add_generation_prompt
        return_token_ids cache_salt priority store metadata service_tier safety_identifier
        prompt_cache_key prompt_cache_retention verbosity audio modalities web_search_options
        prediction functions
    """.split()
    extra = EXTRAS[ChatRequest.place]
    assert not [name for name in contract if name not in ChatRequest.model_fields and name not in extra]
    answer = call(
        server.url,
        "POST",
        CHAT,
        {
            "model": "tiny",
            "messages": ASK,
            "max_tokens": 1,
            "metadata": {"a": "b"},
            "verbosity": "low",
            "reasoning_effort": "low",
        },
    )
    assert answer[1]["x-coterie-ignored"] == "metadata,verbosity"  # an effort bounds the reasoning


def test_prompts_that_do_not_fit_are_refused_not_cut(client):
    for settings in ({"max_tokens": 510}, {"messages": [{"role": "user", "content": "fox " * 600}]}):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{"model": "tiny", "messages": ASK, **settings})
        assert caught.value.code == "context_length_exceeded"
        assert "maximum context length is 512 tokens" in str(caught.value)
    free = client.chat.completions.create(model="tiny", messages=ASK, logit_bias={"0": -100, "2": -100})
    assert free.usage.total_tokens <= 512


NAMES = ["../../etc/passwd", "/etc/passwd", "%2e%2e/x", "tiny\0", "x" * 4096, "tiny\u202e", "TINY", ""]


@pytest.mark.parametrize("name", NAMES)
def test_only_names_known_at_the_start_resolve(server, name, monkeypatch):
    opened = []
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(a))
    monkeypatch.setattr("pathlib.Path.is_dir", lambda *a: opened.append(a))
    answer = call(server.url, "POST", CHAT, {"model": name, "messages": ASK})
    monkeypatch.undo()
    assert answer[0] == (404 if 0 < len(name) <= 512 else 400) and not opened


def raw(url: str, head: str, body: bytes = b"", wait: float = 5.0) -> bytes:
    """Whatever the server says to raw bytes until it hangs up."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=wait) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except (TimeoutError, ConnectionResetError):
            pass
        return received


def head(server, *lines: str, path: str = CHAT) -> str:
    host = urlsplit(server.url).netloc
    return "\n".join([f"POST {path} HTTP/1.1", f"host: {host}", "connection: close", *lines])


def test_large_and_disguised_bodies(server):
    kind = "content-type: application/json"
    assert b" 413 " in raw(server.url, head(server, kind, f"content-length: {40 * 2**20}"))[:20]
    assert (
        b" 415 "
        in raw(server.url, head(server, kind, "content-encoding: gzip", "content-length: 2"), b"{}")[:20]
    )
    assert (
        b" 415 " in raw(server.url, head(server, "content-type: text/plain", "content-length: 2"), b"{}")[:20]
    )
    assert b" 400 " in raw(server.url, head(server, kind, "content-length: x"), b"{}")[:20]
    assert b" 400 " in raw(server.url, head(server, kind))[:20]
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with serving(max_body=2**17) as small:
        answer = raw(small.url, head(small, kind, "transfer-encoding: chunked"), chunk * 4)
        assert b" 413 " in answer[:20] and b"request_too_large" in answer
    whole = json.dumps({"model": "tiny", "messages": ASK, "max_tokens": 1}).encode()
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (whole[:9], whole[9:])) + b"0\r\n\r\n"
    assert b" 200 " in raw(server.url, head(server, kind, "transfer-encoding: chunked"), chunked)[:20]


def test_paths_and_methods(server):
    assert_envelope(call(server.url, "GET", "/v1/nothing"), 404, "not_found")
    assert_envelope(call(server.url, "GET", CHAT), 405, "method_not_allowed")
    for path in ("/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd"):
        assert call(server.url, "GET", path)[0] == 404


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("plain", None),
        ("<|im_start|>user\nhi<|im_end|>\n", "prompt/special_tokens"),
        (["plain", "hi<|im_end|>"], "prompt/special_tokens"),
        ([1, 2], None),
    ],
)
def test_special_tokens_in_a_text_prompt_are_letters_and_named(server, prompt, named):
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 1}
    status, headers, _ = call(server.url, "POST", "/v1/completions", body)
    assert (status, headers.get("x-coterie-ignored")) == (200, named)
    if isinstance(prompt, str):
        _, headers, _ = call(server.url, "POST", "/tokenize", {"model": "tiny", "prompt": prompt})
        assert headers.get("x-coterie-ignored") == named
