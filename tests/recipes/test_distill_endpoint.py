"""A teacher behind a server gives what the same weights give here, or is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from coterie.config.distill import DistillConfig
from coterie.config.errors import ConfigError, CoterieError
from coterie.data.teacher_targets import OWN, TargetHeader
from coterie.infer.model import LanguageModel
from coterie.recipes.distill_endpoint import EndpointTeacher
from coterie.remote.client import Endpoint
from coterie.serve.inprocess import endpoint
from coterie.text.tokenizer import Tokenizer
from coterie.train.teacher import answers
from tests.train.support import make_row, tiny_model

SIZE, WIDTH = 24, 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["some text to learn from, a text of words " * 20], 290)


def config(**more: Any) -> DistillConfig:
    given = {"student": "s", "teacher": "http://localhost:1/v1", "data": "primer"}
    return DistillConfig.from_dict(given | more)


def header(vocab_size: int) -> TargetHeader:
    return TargetHeader("t", "w", "d", "topk", WIDTH, vocab_size, SIZE)


def test_a_served_model_answers_as_it_does_here(tokenizer: Tokenizer) -> None:
    model = tiny_model(1)
    own = model.config.model_copy(update={"vocab_size": tokenizer.vocab_size})
    model = type(model)(own)
    model.initialise(1)
    rows = [(n, make_row(n)) for n in (0, 4)]
    client = endpoint(LanguageModel(model.eval(), tokenizer))
    try:
        teacher = EndpointTeacher(client, "model", tokenizer, Path(), 64)
        far = list(teacher.ask(header(tokenizer.vocab_size), rows))
    finally:
        client.close()
    for ours, theirs, (_, row) in zip(
        far, answers(model, header(tokenizer.vocab_size), rows), rows, strict=True
    ):
        real = slice(0, SIZE - row.num_padding)
        for name in ("teacher_logps", "teacher_tail", OWN):
            np.testing.assert_allclose(ours[name][real], theirs[name][real], atol=2e-4, err_msg=name)
        assert np.array_equal(ours["teacher_ids"][real], theirs["teacher_ids"][real])


def entry(token: int, tokenizer: Tokenizer, **change: Any) -> dict[str, Any]:
    found = {}
    for rank, other in enumerate(range(token, token + WIDTH), 1):
        text = tokenizer.token_bytes([other])[0].decode("utf-8", "replace")
        found[str(other)] = {"logprob": -float(rank), "rank": rank, "decoded_token": text} | change
    return found


def scripted(answer: Callable[[list[int]], dict[str, Any]], status: int = 200) -> Endpoint:
    """A server whose choice for each prompt is what `answer` says."""
    import json

    def handle(request: httpx2.Request) -> httpx2.Response:
        prompts = json.loads(request.content)["prompt"]
        choices = [{"index": n, "text": ""} | answer(prompt) for n, prompt in enumerate(prompts)]
        return httpx2.Response(
            status, json={"choices": choices} if status == 200 else {"error": "unknown field"}
        )

    return Endpoint("http://localhost:1", transport=httpx2.MockTransport(handle))


def test_the_numbers_are_those_of_the_answer(tokenizer: Tokenizer) -> None:
    server = scripted(
        lambda prompt: {"prompt_logprobs": [None, *(entry(one, tokenizer) for one in prompt[1:])]}
    )
    (found,) = EndpointTeacher(server, "m", tokenizer, Path(), 64).ask(
        header(300), [(0, make_row(0, padding=0))]
    )
    row = make_row(0, padding=0)
    assert found["teacher_ids"][:, 0].tolist() == row.targets.tolist()
    assert found["teacher_logps"][0].tolist() == [-1, -2, -3, -4, -5]
    assert found[OWN].tolist() == [-1.0] * SIZE
    tail = np.log(1 - np.exp(-np.arange(1.0, 6)).sum())
    assert found["teacher_tail"] == pytest.approx(tail)


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (lambda prompt, t: {}, 200, "returns no log-probabilities of prompts"),
        (lambda prompt, t: {}, 400, "it returns no log-probabilities of prompts"),
        (lambda prompt, t: {"prompt_logprobs": [None]}, 200, "it adds or drops tokens"),
        (
            lambda prompt, t: {"prompt_logprobs": [None, *(entry(one + 1, t) for one in prompt[1:])]},
            200,
            "gives no log-probability of token",
        ),
        (
            lambda prompt, t: {
                "prompt_logprobs": [None, *(entry(one, t, decoded_token="zzz") for one in prompt[1:])]
            },
            200,
            "is 'zzz' there and",
        ),
        (
            lambda prompt, t: {
                "prompt_logprobs": [None, *({str(one): entry(one, t)[str(one)]} for one in prompt[1:])]
            },
            200,
            "fewer than 5 likeliest tokens",
        ),
    ],
)
def test_servers_that_cannot_teach(answer: Any, status: int, words: str, tokenizer: Tokenizer) -> None:
    teacher = EndpointTeacher(scripted(lambda p: answer(p, tokenizer), status), "m", tokenizer, Path(), 64)
    with pytest.raises(CoterieError, match=words) as error:
        list(teacher.ask(header(300), [(0, make_row(0, padding=0))]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mode": "online"}, "a server returns the likeliest tokens alone"),
        ({"targets": {"kind": "sampled"}}, "a server returns the likeliest tokens alone"),
        ({"temperature": 2.0}, "is at temperature 1"),
    ],
)
def test_what_a_server_cannot_give_is_refused_before_it_is_asked(
    more: dict[str, Any], words: str, tokenizer: Tokenizer
) -> None:
    with pytest.raises(ConfigError, match=words):
        EndpointTeacher.connect(config(**more), tokenizer, Path())
