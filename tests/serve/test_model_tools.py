"""The tools of a model: their arguments, what they find, and what they tell while they work."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from coterie.config import CoterieError
from coterie.hosting.host import Host
from coterie.hosting.service import Service
from coterie.infer.model import LanguageModel
from coterie.infer.sampling import SamplingParams
from coterie.serve import model_tools as tools
from coterie.serve.model_tools import CallProgress, ModelTool, Seen, explain_ids, score_ids
from tests.agents.models import chat_model

DECIMALS = 2 * 0.5e-4 + 1e-9  # two weights, each given to four decimals
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def chat() -> Iterator[ModelTool]:
    host = Host.of(Service(chat_model(), "tiny"))
    yield tools.model_tools(host)[0]
    host.stop()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "chat: message: is missing"),
        ({"message": None}, "chat: message: is missing"),
        ({"message": ""}, "chat: message: String should have at least 1 character"),
        ({"message": 5}, "chat: message: Input should be a valid string"),
        ({"message": "a", "max_tokens": 0}, "chat: max_tokens: Input should be greater than or equal to 1"),
        ({"message": "a", "max_tokens": 257}, "chat: max_tokens: Input should be less than or equal to 256"),
        ({"message": "a", "max_tokens": "9"}, "chat: max_tokens: Input should be a valid integer"),
        ({"message": "a", "max_tokens": True}, "chat: max_tokens: Input should be a valid integer"),
        ({"message": "a", "temperature": 2.1}, "chat: temperature: Input should be less than or equal to 2"),
        ({"message": "a", "top_p": None}, "chat: 'top_p' is not an argument; it takes message, system,"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(chat: ModelTool, given: dict[str, Any], line: str) -> None:
    with pytest.raises(CoterieError) as caught:
        chat.read(given)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_arguments_are_those_that_were_given(chat: ModelTool) -> None:
    """A null asks for nothing, and a whole number may be written as 3.0."""
    given = {"message": "a", "system": None, "max_tokens": 3.0, "temperature": 0}
    assert chat.read(given) == {"message": "a", "max_tokens": 3, "temperature": 0.0}


def test_defaults_are_the_models_own() -> None:
    base = chat_model()
    sampling = SamplingParams(temperature=0.3)
    host = Host.of(Service(LanguageModel(base.model, base.tokenizer, sampling=sampling), "tiny"))
    fields = tools.model_tools(host)[0].arguments.model_json_schema()["properties"]
    host.stop()
    assert fields["temperature"]["default"] == 0.3
    assert fields["max_tokens"]["default"] == 256  # the model has no more positions


def answer(model: LanguageModel, given: dict[str, Any]) -> tuple[str, Any]:
    """The text and the result of a chat."""
    host = Host.of(Service(model, "tiny"))
    host.start()

    async def work() -> tuple[str, Any]:
        tool = tools.model_tools(host)[0]
        return await tool.work(tool.read(given), CallProgress())

    try:
        return asyncio.run(work())
    finally:
        host.stop()


def test_without_a_number_a_reply_ends_before_the_models_positions() -> None:
    """A number that was given must fit; the default is reduced to what does."""
    given = {"message": "fox", "temperature": 0}
    _, result = answer(chat_model(), given)
    assert result.prompt_tokens + result.reply_tokens == 256 and result.finish_reason == "length"
    with pytest.raises(CoterieError, match="maximum context length is 256 tokens"):
        answer(chat_model(), given | {"max_tokens": 256})


def test_the_default_length_holds_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "REPLY_TOKENS", 9)
    _, result = answer(chat_model(), {"message": "fox", "temperature": 0})
    assert result.reply_tokens == 9
    _, result = answer(chat_model(), {"message": "fox", "temperature": 0, "max_tokens": 10})
    assert result.reply_tokens == 10


def test_a_system_message_that_the_template_drops_is_refused() -> None:
    asked = {"message": "fox", "max_tokens": 3}
    answer(chat_model(NO_SYSTEM), asked)
    with pytest.raises(CoterieError, match="chat: system: the model's template does not show it"):
        answer(chat_model(NO_SYSTEM), asked | {"system": "Be brief."})


def test_reasoning_without_a_reply_is_an_error() -> None:
    """A caller that reads only the text would take nothing for the answer."""
    thinks = chat_model("{% for m in messages %}{{ m.content }}{% endfor %}<think>\n")
    with pytest.raises(CoterieError, match="the 5 tokens ended before the reasoning did; give more"):
        answer(thinks, {"message": "fox", "temperature": 0, "max_tokens": 5})


def test_reports_always_grow_and_silence_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seen = 0.0, Seen(0, 10, "")
    monkeypatch.setattr("coterie.serve.model_tools.time.monotonic", lambda: now)
    progress = CallProgress(look=lambda: seen)

    def news() -> float | None:
        report = progress.news()
        return None if report is None else report.value

    assert news() == 0 and news() is None
    now = 1.0
    assert news() == pytest.approx(0.001) and news() is None  # alive, although nothing happened
    seen = Seen(1, 10, "")
    assert news() == 1 and news() is None
    seen = Seen(0.5, 10, "")
    now = 1.9
    assert news() is None
    now = 2.0
    assert news() == pytest.approx(1.001)
    seen = Seen(10, 10, "")
    assert news() == 10


def test_routes_are_those_of_the_forward_pass() -> None:
    model = chat_model()
    routes = explain_ids(model, model.encode("the fox"), "the fox")
    assert set(routes["layers"]) == {"0", "1"} and "".join(routes["tokens"]).endswith("the fox")
    for layer in routes["layers"].values():
        assert len(layer["experts"]) == len(routes["tokens"])
        for experts, weights in zip(layer["experts"], layer["weights"], strict=True):
            assert len(set(experts)) == 2 and sum(weights) == pytest.approx(1.0, abs=DECIMALS)
    assert json.dumps(routes)


def test_a_score_is_finite_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat_model()
    ids = model.encode("a fox")
    found = score_ids(model, ids, "a fox")
    assert found["tokens"] == len(ids) and found["bits_per_byte"] == -found["logprob"] / math.log(2) / 5
    monkeypatch.setattr(model, "logprobs", lambda ids: torch.tensor([-math.inf, -1.0]))
    with pytest.raises(CoterieError, match="log-probability of this text is -inf"):
        score_ids(model, ids, "a fox")
