"""What Ollama's API says of models, and its vectors."""

from __future__ import annotations

import pytest

from coterie.serve.server import ServerThread
from tests.serve.support import call


def test_names_are_those_of_the_openai_list(server: ServerThread) -> None:
    listed = [one["id"] for one in call(server.url, "GET", "/v1/models")[2]["data"]]
    tags = call(server.url, "GET", "/api/tags")[2]["models"]
    assert [one["name"] for one in tags] == listed
    (loaded,) = call(server.url, "GET", "/api/ps")[2]["models"]
    assert loaded["name"] == "tiny" and loaded["digest"] == tags[0]["digest"] and loaded["size"] > 0
    assert call(server.url, "GET", "/api/version")[2]["version"].count(".") == 2


def test_show_says_what_the_model_can_do(server: ServerThread) -> None:
    shown = call(server.url, "POST", "/api/show", {"model": "tiny:latest"})[2]
    assert {"completion", "tools", "embedding"} <= set(shown["capabilities"])
    assert shown["model_info"]["general.parameter_count"] > 0 and "messages" in shown["template"]
    length = shown["model_info"][f"{shown['model_info']['general.architecture']}.context_length"]
    assert length == call(server.url, "GET", "/v1/models/tiny")[2]["max_model_len"]


def test_vectors_are_those_of_v1_embeddings(server: ServerThread) -> None:
    texts = ["the fox", "a user"]
    ours = call(server.url, "POST", "/api/embed", {"model": "tiny", "input": texts})[2]
    theirs = call(server.url, "POST", "/v1/embeddings", {"model": "tiny", "input": texts})[2]
    assert ours["embeddings"] == [one["embedding"] for one in theirs["data"]]
    assert ours["prompt_eval_count"] == theirs["usage"]["prompt_tokens"]
    old = call(server.url, "POST", "/api/embeddings", {"model": "tiny", "prompt": texts[0]})[2]
    assert old["embedding"] == ours["embeddings"][0]


def test_long_texts_are_cut_only_when_asked(server: ServerThread) -> None:
    body = {"model": "tiny", "input": "fox " * 2000}
    status, _, answer = call(server.url, "POST", "/api/embed", body)
    assert status == 400 and "maximum context length" in answer["error"]
    status, _, answer = call(server.url, "POST", "/api/embed", {**body, "truncate": True, "dimensions": 4})
    assert status == 200 and answer["prompt_eval_count"] == 512
    assert sum(value**2 for value in answer["embeddings"][0]) == pytest.approx(1, abs=1e-5)
