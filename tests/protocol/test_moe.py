"""Routing in replies, and a request's control of the experts."""

from __future__ import annotations

import openai
import pytest

from tests.serve.support import ASK, call, serving

DECIMALS = 2 * 0.5e-4 + 1e-9  # two weights, each given to four decimals
SETTINGS = {"model": "tiny", "messages": ASK, "seed": 2, "max_tokens": 6}


def ask(client, moe, **more):
    return client.chat.completions.create(
        **SETTINGS, **more, extra_body={"moe": moe, "return_token_ids": True}
    )


@pytest.mark.parametrize("kind", ["summary", "full"])
def test_routing_is_reported_for_every_token_streamed_or_not(client, kind):
    choice = ask(client, {"routing": kind}).choices[0]
    moe = choice.moe
    assert moe["layers"] == [0, 1] and moe["routing"] == kind
    assert [token["id"] for token in moe["tokens"]] == choice.token_ids
    width = 1 if kind == "summary" else 2
    for token in moe["tokens"]:
        assert [len(experts) for experts in token["experts"]] == [width, width]
        assert all(0 <= e < 6 for experts in token["experts"] for e in experts)
        assert all(sorted(weights, reverse=True) == weights for weights in token["weights"])
    if kind == "full":  # the tiny model's router renormalises
        assert all(
            sum(weights) == pytest.approx(1, abs=DECIMALS) for t in moe["tokens"] for weights in t["weights"]
        )
    streamed = [
        token
        for chunk in ask(client, {"routing": kind}, stream=True)
        for c in chunk.choices
        for token in (getattr(c, "moe", None) or {"tokens": []})["tokens"]
    ]
    assert streamed == moe["tokens"]


def test_masked_experts_are_not_used_and_others_are_untouched(client):
    plain = ask(client, {"routing": "full"}).choices[0]
    masked = ask(client, {"routing": "full", "mask": {"0": [0, 2, 5], "1": [1]}}).choices[0]
    used = [{e for token in masked.moe["tokens"] for e in token["experts"][layer]} for layer in (0, 1)]
    assert not used[0] & {0, 2, 5} and not used[1] & {1}
    assert masked.token_ids != plain.token_ids
    assert ask(client, {"routing": "full"}).choices[0].token_ids == plain.token_ids
    one = ask(client, {"routing": "full", "top_k": 1}).choices[0]
    assert all(len(experts) == 1 for token in one.moe["tokens"] for experts in token["experts"])
    forced = ask(client, {"routing": "full", "bias": {"1": {"4": 1000}}}).choices[0]
    assert all(token["experts"][1][0] == 4 for token in forced.moe["tokens"])


def test_completions_report_routing_too(client):
    answer = client.completions.create(
        model="tiny", prompt="Once", max_tokens=3, extra_body={"moe": {"routing": "full"}}
    )
    assert len(answer.choices[0].moe["tokens"]) == answer.usage.completion_tokens


@pytest.mark.parametrize(
    "moe",
    [
        {"mask": {"7": [0]}},
        {"mask": {"x": [0]}},
        {"mask": {"0": [0, 1, 2, 3, 4]}},
        {"top_k": 9},
        {"bias": {"0": {"6": 1}}},
        {"profile": "legal"},
        {"routing": "all"},
        {"experts": 1},
    ],
)
def test_refusals(client, moe):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, moe)
    assert caught.value.param.startswith("/moe")


def test_stats_count_every_token(server, client):
    before = call(server.url, "GET", "/v1/moe/stats")[2]
    answer = client.chat.completions.create(**SETTINGS)
    after = call(server.url, "GET", "/v1/moe/stats")[2]
    # The last is not fed back.
    fed = answer.usage.total_tokens - 1 - answer.usage.prompt_tokens_details.cached_tokens
    for one, two in zip(before["layers"], after["layers"], strict=True):
        assert sum(two["counts"]) - sum(one["counts"]) == 2 * fed


def test_a_dense_model_says_so():
    from tests.serve.support import language_model

    with serving(language_model("dense")) as server:
        body = {"model": "tiny", "messages": ASK, "max_tokens": 1, "moe": {"routing": "full"}}
        status, _, answer = call(server.url, "POST", "/v1/chat/completions", body)
        assert status == 400 and "dense" in answer["error"]["message"]
        assert call(server.url, "GET", "/v1/moe/stats")[2]["layers"] == []
