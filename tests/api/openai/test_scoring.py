"""Reranking and scores against the vectors of the embeddings endpoint."""

from __future__ import annotations

import pytest

from tests.arithmetic import approx
from tests.serve.support import call

QUERY = "a little fox"
TEXTS = ["Hello, user!", "a little fox", "Once upon a time", "Hello, user!"]
WIDTH = 32


@pytest.fixture(scope="module")
def cosines(client):
    one, *others = (
        entry.embedding for entry in client.embeddings.create(model="tiny", input=[QUERY, *TEXTS]).data
    )
    return [sum(a * b for a, b in zip(one, other, strict=True)) for other in others]


def near(values):
    return approx(values, terms=WIDTH, depth=2)


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_rerank_sorts_by_the_cosine(server, cosines, path):
    documents = [*TEXTS[:2], {"text": TEXTS[2]}, TEXTS[3]]
    status, _, found = call(
        server.url, "POST", path, {"model": "tiny", "query": QUERY, "documents": documents}
    )
    assert status == 200 and found["model"] == "tiny"
    results = found["results"]
    order = [result["index"] for result in results]
    assert order == sorted(range(4), key=lambda index: (-cosines[index], index)) and order[0] == 1
    assert [result["relevance_score"] for result in results] == near([cosines[index] for index in order])
    assert order.index(0) == order.index(3) - 1  # equal texts stay in their order
    if path == "/v2/rerank":
        assert all("document" not in result for result in results)
    else:
        assert [result["document"]["text"] for result in results] == [TEXTS[index] for index in order]


def test_rerank_gives_what_was_asked_for(server):
    body = {"query": QUERY, "documents": TEXTS, "top_n": 2, "return_documents": False, "user": "me"}
    status, headers, found = call(server.url, "POST", "/v1/rerank", body)
    assert status == 200 and [set(one) for one in found["results"]] == [{"index", "relevance_score"}] * 2
    assert headers["x-coterie-ignored"] == "user" and found["model"] == "tiny"
    short = {**body, "documents": [TEXTS[1] + " and so on"], "max_tokens_per_doc": 3, "top_n": 9}
    whole = call(server.url, "POST", "/v1/rerank", {**short, "max_tokens_per_doc": None})[2]
    cut = call(server.url, "POST", "/v1/rerank", short)[2]
    assert whole["usage"]["prompt_tokens"] > cut["usage"]["prompt_tokens"] and len(cut["results"]) == 1
    kept = call(server.url, "POST", "/v1/rerank", {**body, "truncate_prompt_tokens": 1})[2]
    assert kept["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_scores_of_pairs(server, cosines, path):
    one = call(server.url, "POST", path, {"model": "tiny", "text_1": QUERY, "text_2": TEXTS})[2]
    assert one["object"] == "list"
    assert [entry["index"] for entry in one["data"]] == [0, 1, 2, 3]
    assert [entry["object"] for entry in one["data"]] == ["score"] * 4
    assert [entry["score"] for entry in one["data"]] == near(cosines)
    pairs = {"text_1": [QUERY, TEXTS[0]], "text_2": [TEXTS[0], TEXTS[0]]}
    two = call(server.url, "POST", path, pairs)[2]["data"]
    assert [entry["score"] for entry in two] == near([cosines[0], 1.0])


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/v1/rerank", {"query": "a", "documents": []}, "/documents"),
        ("/v1/rerank", {"query": "a", "documents": ["b", ""]}, "/documents/1"),
        ("/v1/rerank", {"query": "a", "documents": ["b", {"image": "c"}]}, "/documents/1/image"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "rank_fields": ["title"]}, "/rank_fields"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "/top_n"),
        ("/v1/rerank", {"documents": ["b"]}, "/query"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "/text_1"),
        ("/v1/score", {"text_1": "a"}, "/text_2"),
        ("/v1/score", {"text_1": "a b " * 900, "text_2": "a"}, None),
    ],
)
def test_what_is_refused(server, path, body, pointer):
    status, _, found = call(server.url, "POST", path, {"model": "tiny", **body})
    assert status == 400 and found["error"]["param"] == pointer, found
