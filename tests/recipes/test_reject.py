"""Rejection sampling end to end on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.config.errors import TrainingError
from coterie.config.reject import RejectConfig
from coterie.recipes import reject as recipe
from coterie.recipes.pool import make_pool
from coterie.recipes.reject import RejectResult, reject
from coterie.reinforce.accepted import as_sampled
from coterie.reinforce.sampling import load_sampler
from coterie.reinforce.survey import REPLIES, Survey, SurveyedReply
from coterie.tasks import load_task
from tests.recipes.test_pool import TASK, settings
from tests.recipes.tuned import base

TUNE: dict[str, Any] = {
    "method": "full", "lr": 1e-2, "steps": 12, "row_length": 64, "batch_rows": 4, "retention": "none",
    "eval": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task and a tiny model."""
    folder = tmp_path_factory.mktemp("reject")
    (folder / "small.py").write_text(TASK)
    base(folder, "llama", calm=True)
    return folder


def rejected(place: Path, name: str, **more: Any) -> RejectResult:
    """A small run in `place`."""
    given = {"problems": 40, "replies": 4, "max_tokens": 2, "eval_problems": 12, "threads": 1, "tune": TUNE}
    return reject(str(place / "llama"), str(place / "small.py"), out=str(place / name), **(given | more))


@pytest.fixture
def ends_anyhow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every reply for one that ended by itself: the tiny model never ends one."""
    of_group = Survey.run

    def whole(self: Survey) -> Any:
        return [
            type(one)(
                one.problem,
                one.index,
                tuple(SurveyedReply(**(vars(reply) | {"truncated": False})) for reply in one.replies),
            )
            for one in of_group(self)
        ]

    monkeypatch.setattr(Survey, "run", whole)


@pytest.mark.usefixtures("ends_anyhow")
def test_what_is_right_is_learnt(place: Path) -> None:
    result = rejected(place, "run")
    record = result.record
    assert result.path == place / "run" / "tune" / "model" and result.path.is_dir()
    rows = [json.loads(line) for line in (place / "run" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == record.accepted.rows > 0
    said = [row["messages"][-1]["content"] for row in rows]
    assert all(text[:1].islower() for text in said)
    by_problem = [row["metadata"]["problem"] for row in rows]
    assert max(map(by_problem.count, by_problem)) <= 4
    assert len({(name, text) for name, text in zip(by_problem, said, strict=True)}) == len(rows)
    assert record.change.before.problems == record.change.after.problems == 12
    metrics = (place / "run" / "tune" / "metrics.jsonl").read_text().splitlines()
    losses = [one["loss"] for one in map(json.loads, metrics) if one["kind"] == "train"]
    assert len(losses) == record.steps == 12 and losses[-1] < losses[0] - 0.5
    assert json.loads((place / "run" / "reject.json").read_text())["rows_sha256"] == record.rows_sha256
    receipt = json.loads((place / "run" / "rows.json").read_text())
    assert receipt["accepted"]["replies"] == 160 and receipt["survey"]["task"] == "small"
    # The same command again changes nothing and samples nothing.
    before = (place / "run" / "sampled" / REPLIES).read_bytes()
    again = rejected(place, "run").record
    assert again.change == record.change and again.rows_sha256 == record.rows_sha256
    assert (place / "run" / "sampled" / REPLIES).read_bytes() == before
    # Same seed, same rows; another one, others.
    rejected(place, "other", seed=1)
    assert (place / "other" / "rows.jsonl").read_bytes() != (place / "run" / "rows.jsonl").read_bytes()


@pytest.mark.usefixtures("ends_anyhow")
def test_another_base_a_pool_and_further_rows(place: Path) -> None:
    pool = make_pool_in(place)
    other = base(place / "more", "llama", calm=True)
    talk = place / "talk.jsonl"
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "ho"}]
    talk.write_text((json.dumps({"messages": chat}) + "\n") * 4)
    result = rejected(place, "base", base=str(other), also=[f"{talk}#3"], pool=str(pool))
    record = result.record
    assert record.base is not None and record.base.problems == 12
    assert record.accepted.problems == len(pool.read_text().splitlines()) - 1
    tuned = json.loads((place / "base" / "tune" / "report.json").read_text())
    assert tuned["counts"]["examples trained on"] == record.accepted.rows + 3


def make_pool_in(place: Path) -> Path:
    """A small pool."""
    from coterie.config.pool import PoolConfig

    make_pool(PoolConfig.from_dict(settings(place, "pool.jsonl"), "pool"))
    return place / "pool.jsonl"


def test_without_a_row_it_says_why(place: Path) -> None:
    says = r"nothing to learn: .* replies are right .*truncated\); right replies were cut off at 2 tokens"
    with pytest.raises(TrainingError, match=says):
        rejected(place, "cut")
    assert not (place / "cut" / "rows.jsonl").exists()


def test_only_what_was_sampled_is_learnt(place: Path) -> None:
    """A template with reasoning shows it on separate lines; another form is left out."""
    family = load_task("parity")
    config = RejectConfig.from_dict({"model": str(place / "llama"), "task": "parity"}, "reject")
    sampler = load_sampler(str(place / "llama"), family, config)
    tokenizer, problem = sampler.tokenizer, family.problem(3, 0)
    shown = as_sampled(sampler)

    def reply(reasoning: str, content: str, text: str) -> SurveyedReply:
        ids = tokenizer.encode_places(text, None, tokenizer.chat_template).ids
        return SurveyedReply(reasoning, content, True, 1.0, False, tuple(ids))

    rendered = "<think>\n0110\n</think>\n\nAnswer: 1<|im_end|>"
    assert shown(problem, reply("0110", "Answer: 1", rendered))
    assert not shown(problem, reply("0110", "Answer: 1", rendered.replace("\n\n", "\n")))
    assert not shown(problem, reply("0110", "Answer: 1", rendered.replace("<think>\n", "<think>")))
    assert not shown(problem, reply("0111", "Answer: 1", rendered))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tune": {"model": "x"}}, "tune.model: follows from the other settings"),
        ({"tune": {"epoch": 2}}, r"reject: tune: unknown key 'epoch' \(did you mean 'epochs'"),
        ({"pool": "p", "levels": "1"}, "the pool says which levels are sampled; leave 'levels' out"),
        ({"replies": 0}, "'replies'"),
    ],
)
def test_settings_that_cannot_be_followed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RejectConfig.from_dict({"model": "m", "task": "parity"} | given, "reject")


def test_tasks_with_tools_are_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="tools"):
        reject(str(place / "llama"), "tool-chains", out=str(place / "tools"), max_tokens=2, threads=1)
    assert recipe.REPORT == "reject.json"
