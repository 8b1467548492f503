"""Models on the user's examples: paired by example, the same bytes for all, and what cannot be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coterie
from coterie.config import ConfigError, DataError
from coterie.config.evaluate import EvalConfig
from coterie.data.examples import read_all
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.remote_subject import RemoteSubject
from coterie.evaluate.subject import Subject
from coterie.recipes import compare_models as recipe
from coterie.recipes import compare_sides as sides
from coterie.recipes import evaluate
from coterie.recipes.compare_models import compare_models
from coterie.recipes.compare_sides import LocalSide, ServedSide, SidePace, answer_bytes, key_of
from coterie.remote.client import Endpoint, EndpointError
from coterie.report.compare_models_page import render_models
from tests.agents.models import PLAIN, chat_model
from tests.evaluate.items import Letters, identity_of, model_of

Rows = list[dict[str, Any]]
ROWS: Rows = [
    {"prompt": f"The fox number {n} jumps", "completion": f" over {n} lazy dogs, é."} for n in range(10)
]
CHATS: Rows = [
    {
        "messages": [
            {"role": "user", "content": f"Is {n} quick?"},
            {"role": "assistant", "content": f"The brown fox, {n} times"},
            {"role": "user", "content": "And lazy?"},
            {"role": "assistant", "content": "Dog."},
        ]
    }
    for n in range(8)
]
MODELS = {"moe": ("moe", 3), "dense": ("dense", 3), "other": ("moe", 5), "twin": ("moe", 3)}


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of `MODELS` are loaded, addresses are asked; timings are short."""

    def opened(config: EvalConfig) -> Subject:
        if config.model not in MODELS:
            return evaluate.open_subject(config)
        kind, seed = MODELS[config.model]
        return LocalSubject(
            model_of("chatml", kind, seed=seed), config.name, identity=identity_of(config.name)
        )

    monkeypatch.setattr(sides, "open_subject", opened)
    monkeypatch.setattr(LocalSide, "pace", lambda side, clients: SidePace(50.0, 10.0, 20.0))
    monkeypatch.setattr(recipe, "_ROUNDS", 1)
    monkeypatch.setattr(sides, "TOKENS", 3)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server of a mixture."""
    with coterie.serve_in_thread(
        chat_model(PLAIN), "tiny", page=False, log_requests="off", deterministic=True
    ) as server:
        yield server.url


PACE = LocalSide.pace


def written(path: Path, rows: Rows) -> list[str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path)]


def letters(monkeypatch: pytest.MonkeyPatch, count: int = 12) -> None:
    monkeypatch.setattr(recipe, "benchmarks_of", lambda config: iter([Letters(count)]))


def test_bits_are_those_of_the_answers_alone(tmp_path: Path) -> None:
    data = written(tmp_path / "mine.jsonl", ROWS)
    found = compare_models(["moe", "dense"], data, clients=2, price_per_hour=3.6, out=tmp_path / "out")
    model = model_of("chatml", "moe", seed=3)
    nats = 0.0
    for row in ROWS:
        prompt, whole = (model.encode(text) for text in (row["prompt"], row["prompt"] + row["completion"]))
        nats -= float(model.logprobs(whole)[len(prompt) - 1 :].sum())
    moe, dense = found.models
    size = sum(len(row["completion"].encode()) for row in ROWS)
    assert moe.bits == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    (pair,) = found.pairs
    assert found.examples == 10 and pair.examples is not None and pair.examples.items == 10
    assert moe.bits is not None and dense.bits is not None and moe.many is not None
    assert pair.examples.difference.value == pytest.approx(dense.bits - moe.bits)
    assert moe.dollars == pytest.approx(1000 / moe.many)
    assert moe.identity.weights_tensors != dense.identity.weights_tensors
    page = (tmp_path / "out" / "report.html").read_text()
    assert page == render_models(found) and "http" not in page and "src=" not in page
    assert f"{moe.bits:.4f}" in page


def test_a_model_is_not_better_than_itself_and_tasks_are_paired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters(monkeypatch)
    data = written(tmp_path / "mine.jsonl", ROWS)
    found = compare_models(["moe", "twin"], data, ["letters"], limit=6, clients=1, out=tmp_path)
    (pair,) = found.pairs
    assert pair.examples is not None and pair.examples.difference.value == 0.0
    assert pair.tasks["letters"].p == pair.tasks["letters"].p_holm == 1.0
    assert pair.tasks["letters"].clusters == 3, "two items each"
    assert found.lines()[1] == "No model is shown to be better than another on your examples or letters."


def test_the_routing_of_a_mixture_is_that_of_the_examples(tmp_path: Path) -> None:
    data = written(tmp_path / "m.jsonl", ROWS)
    found = compare_models(["moe", "dense", "other"], data, clients=1, out=tmp_path)
    moe, dense, other = found.models
    assert dense.routing is None and moe.routing is not None and other.routing is not None
    model, counts = model_of("chatml", "moe", seed=3), np.zeros(1)
    layer, facts = next(iter(moe.routing.layers.items()))
    for row in ROWS:
        ids = model.encode(row["prompt"] + row["completion"])
        chosen = model.routing(ids)[layer].ids_TK.flatten().numpy()
        counts = counts + np.bincount(chosen, minlength=len(facts.share))
    np.testing.assert_allclose(facts.share, counts / counts.sum())
    assert facts.dead == [expert for expert, count in enumerate(counts) if not count]
    page = render_models(found)
    assert page.count("<svg") == 2 and "How moe routes your examples" in page
    assert 'id="load-0-' in page and 'id="load-2-' in page, "two drawings have different ids"
    assert f"moe routes your examples so: {moe.routing.words()}." in found.lines()


def test_an_example_that_is_too_long_is_left_out_for_all(tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": "x", "completion": "a long answer " * 300}]
    found = compare_models(["moe", "other"], written(tmp_path / "m.jsonl", rows), clients=1, out=tmp_path)
    assert (found.examples, found.left_out) == (10, 1)
    assert "1 example was left out" in found.lines()[-1]


def test_three_models_are_compared_in_every_pair(tmp_path: Path) -> None:
    data = written(tmp_path / "m.jsonl", ROWS)
    found = compare_models(["moe", "dense", "other"], data, clients=1, out=tmp_path)
    assert [(pair.first, pair.second) for pair in found.pairs] == [
        ("moe", "dense"),
        ("moe", "other"),
        ("dense", "other"),
    ]
    ps = sorted(pair.examples.p for pair in found.pairs if pair.examples)
    corrected = sorted(pair.examples.p_holm or 0 for pair in found.pairs if pair.examples)
    assert corrected[0] == pytest.approx(min(1.0, 3 * ps[0]))


def test_bytes_of_conversations_are_the_assistants(tmp_path: Path) -> None:
    read = read_all(written(tmp_path / "m.jsonl", CHATS))
    assert answer_bytes(read.examples[0]) == len("The brown fox, 0 times") + len("Dog.")


def test_the_speed_of_a_model_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalSide, "pace", PACE)
    side = LocalSide("moe", LocalSubject(chat_model(PLAIN), "moe"))
    found = sides.paces([side], 2, 1)["moe"]
    assert found.prefill and found.one and found.many and min(found.prefill, found.one, found.many) > 0
    facts = side.facts()
    assert facts["kernels"] and facts["active_parameters"] < facts["parameters"]
    assert facts["weight_bytes"] == sum(p.numel() * 4 for p in side.model.model.parameters())


@pytest.mark.parametrize("unknown", [0, 1])
def test_a_speed_that_is_unknown_once_is_unknown(unknown: int) -> None:
    rows = [SidePace(None, 10.0, 20.0), SidePace(None, 12.0, 30.0), SidePace(None, 14.0, 40.0)]
    assert sides.middle(rows) == SidePace(None, 12.0, 30.0)
    rows[unknown] = SidePace(None, 10.0, None)
    assert sides.middle(rows).many is None


@pytest.mark.parametrize("rows", [ROWS, CHATS])
def test_a_server_weighs_answers_as_this_process(tmp_path: Path, address: str, rows: Rows) -> None:
    """The same tokens are marked on both sides, in plain texts and in conversations."""
    examples = read_all(written(tmp_path / "m.jsonl", rows)).examples
    here = LocalSide("here", LocalSubject(chat_model(PLAIN), "here"))
    there = ServedSide("there", RemoteSubject(Endpoint(address)))
    keys = [key_of(example) for example in examples]
    assert not there.blind
    for side in (here, there):
        found, why = side.read(examples)
        assert found == set(keys) and why == ""
    np.testing.assert_allclose(here.bits(keys), there.bits(keys), rtol=1e-3)


def test_a_served_model_has_an_identity_and_nothing_is_invented(tmp_path: Path, address: str) -> None:
    data = written(tmp_path / "m.jsonl", CHATS)
    given = f"{address}/v1#tiny"
    found = compare_models(["moe", given], data, clients=2, price_per_hour=1, out=tmp_path)
    served = found.models[1]
    assert served.name == given and served.served and served.bits is not None
    assert served.identity.weights_tensors == RemoteSubject(Endpoint(address)).identity.weights_tensors
    assert served.weight_bytes is served.parameters is served.prefill is served.dollars is None
    assert served.many is not None and served.many > 0
    said = " ".join(found.lines())
    assert f"Memory and cost of {given} are not known from here." in said
    assert "is that of streamed replies through the server" in said
    assert "not known" in render_models(found)


def test_a_server_that_weighs_nothing_is_compared_on_tasks(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = Endpoint.post

    def refused(self: Endpoint, path: str, body: object) -> object:
        if path in ("/tokenize", "/v1/completions"):
            raise EndpointError(f"{path}: no such path", 404)
        return post(self, path, body)

    monkeypatch.setattr(Endpoint, "post", refused)
    data = written(tmp_path / "m.jsonl", CHATS)
    with pytest.raises(ConfigError, match="give --tasks") as caught:
        compare_models(["moe", address], data, clients=1, out=tmp_path)
    assert "\n" not in str(caught.value)
    letters(monkeypatch, 4)
    found = compare_models(["moe", address, "dense"], data, ["letters"], clients=1, out=tmp_path)
    assert found.models[1].bits is None and found.models[2].bits is not None
    assert [pair.examples is None for pair in found.pairs] == [True, False, True]
    assert f"{address} is not compared on your examples" in " ".join(found.lines())


@pytest.mark.parametrize(
    ("paths", "rows", "error", "says"),
    [
        (["moe"], ROWS, ConfigError, "two or more"),
        (["moe", "moe"], ROWS, ConfigError, "different models"),
        (["moe", "http://localhost:1"], ROWS, EndpointError, "is the server running"),
        (["moe", "http:///v1"], ROWS, ConfigError, "give http://HOST:PORT"),
        (["moe", "other"], ROWS[:1], DataError, "fewer than two examples"),
        (["moe", "other"], [], DataError, "holds no example"),
        (["moe", "other"], [{"prompt": "a", "completion": ""}] * 3, DataError, "m.jsonl:1: "),
        (
            ["moe", "other"],
            [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 3,
            DataError,
            "have not one answer",
        ),
    ],
)
def test_what_cannot_be_compared(
    tmp_path: Path, paths: list[str], rows: Rows, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        compare_models(paths, written(tmp_path / "m.jsonl", rows), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_a_server_has_not_is_named(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="serves no 'big'; it has tiny"):
        compare_models(["moe", f"{address}#big"], written(tmp_path / "m.jsonl", ROWS), out=tmp_path / "out")
