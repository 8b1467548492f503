"""Chat completions through the real client: calls come as they are written, and are the plain answer's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.infer.speculation import StepCost
from tests.hosting.constraints.test_grammar import ADD, NO_REASONING
from tests.serve.support import ASK, call

TOOL = {"type": "function", "function": {**ADD, "strict": True}}
FORCED: dict[str, Any] = {
    "model": "tiny",
    "messages": ASK,
    "tools": [TOOL],
    "tool_choice": "required",
    "seed": 1,
    "logit_bias": NO_REASONING,
    "logprobs": True,
}


@pytest.mark.parametrize(("limit", "reason"), [(120, "tool_calls"), (20, "length")])
def test_a_call_is_streamed_and_equals_the_plain_one(client, limit, reason):
    """Whole, and cut off: then it is the call so far, and no markup."""
    plain = client.chat.completions.create(**FORCED, max_tokens=limit).choices[0]
    (made,) = plain.message.tool_calls[:1]
    chunks = [
        chunk.choices[0] for chunk in client.chat.completions.create(**FORCED, max_tokens=limit, stream=True)
    ]
    pieces = [piece for chunk in chunks for piece in chunk.delta.tool_calls or ()]
    first, *later = [piece for piece in pieces if piece.index == 0]
    assert (first.type, first.function.name, made.function.name) == ("function", "add", "add")
    assert first.id and not any(piece.id or piece.type or piece.function.name for piece in later)
    assert "".join(piece.function.arguments for piece in [first, *later]) == made.function.arguments
    assert len(later) > 3, "one piece a token"
    assert chunks[-1].finish_reason == plain.finish_reason == reason
    assert not plain.message.content and not any(chunk.delta.content for chunk in chunks)
    if reason == "tool_calls":
        assert set(json.loads(made.function.arguments)) == {"a", "b"}
    else:
        with pytest.raises(ValueError):
            json.loads(made.function.arguments)
    told = [entry for chunk in chunks if chunk.logprobs for entry in chunk.logprobs.content]
    assert [one.logprob for one in told] == pytest.approx([one.logprob for one in plain.logprobs.content])


def test_log_probabilities_are_those_of_all_tokens_and_the_end(client, server):
    """As many as tokens are counted; the last is that of the token that ended the reply."""
    stop = server.service.model.stop_ids[0]
    for stream in (False, True):
        answer = client.chat.completions.create(
            model="tiny", messages=ASK, max_tokens=9, logprobs=True, stream=stream,
            logit_bias={str(stop): 100}, extra_body={"return_token_ids": True, "min_tokens": 3},
        )  # fmt: skip
        choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
        entries = [
            entry for choice in choices for entry in (choice.logprobs.content if choice.logprobs else ())
        ]
        ids = [token for choice in choices for token in getattr(choice, "token_ids", None) or ()]
        assert choices[-1].finish_reason == "stop" and len(entries) == len(ids) == 4
        assert (
            ids[-1] == stop and entries[-1].token == server.service.tokenizer.token_bytes([stop])[0].decode()
        )


def test_a_predicted_reply_is_drafted_and_counted(client, server, monkeypatch):
    """The whole reply, which an end of its content cuts although a draft goes on."""
    monkeypatch.setattr(StepCost, "of", lambda self, num_rows: 1.0)
    asked = {"model": "tiny", "messages": ASK, "seed": 3, "max_tokens": 30, "logit_bias": NO_REASONING}
    plain = client.chat.completions.create(**asked, extra_body={"speculate": "off"})
    content = plain.choices[0].message.content
    before = server.service.engine.speculation.num_accepted
    drafted = client.chat.completions.create(
        **asked, prediction={"type": "content", "content": content}, extra_body={"speculate": "lookup"}
    )
    assert drafted.choices[0].message.content == content
    assert server.service.engine.speculation.num_accepted > before
    details = drafted.usage.completion_tokens_details
    predicted = len(server.service.tokenizer.encode(content))
    assert details.accepted_prediction_tokens > 0
    assert details.accepted_prediction_tokens + details.rejected_prediction_tokens == predicted
    stop = content[len(content) // 2 :][:2]
    for prediction in (None, {"type": "content", "content": [{"type": "text", "text": content}]}):
        cut = client.chat.completions.create(
            **asked, stop=stop, extra_body={"prediction": prediction, "speculate": "lookup"}
        )
        assert cut.choices[0].message.content == content[: content.index(stop)]
        if prediction is None:
            tokens = cut.usage.completion_tokens
    assert cut.usage.completion_tokens == tokens
    assert "coterie_accepted_draft_tokens" in call(server.url, "GET", "/metrics")[2]
