"""Pools of problems: what stays in them, going on after a kill, and what training refuses."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.config.errors import TrainingError
from coterie.config.pool import PoolConfig
from coterie.config.reinforce import ReinforceConfig
from coterie.recipes.pool import make_pool
from coterie.recipes.reinforce import reinforce
from coterie.reinforce.pool import PoolHeader, read_pool
from coterie.reinforce.survey import REPLIES, Survey
from coterie.tasks import load_task
from tests.recipes.tuned import base

# Earns a point for a reply that begins with a small letter.
TASK = """
def tasks():
    for number in range(200):
        yield {"prompt": f"Say {number}.", "answer": "a", "reply": "a"}


def reward(task, reply):
    return float(reply[:1].islower())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task and a tiny model."""
    folder = tmp_path_factory.mktemp("pool")
    (folder / "small.py").write_text(TASK)
    base(folder, "llama", calm=True)
    return folder


def settings(place: Path, name: str, **more: Any) -> dict[str, Any]:
    """The settings of a small pool."""
    given = {"model": str(place / "llama"), "task": str(place / "small.py"), "out": str(place / name)}
    return given | {"problems": 24, "replies": 4, "max_tokens": 2, "threads": 1} | more


def pooled(place: Path, name: str, **more: Any) -> PoolHeader:
    """A small pool in `place`."""
    return make_pool(PoolConfig.from_dict(settings(place, name, **more), "pool"))


def replies(place: Path, name: str) -> bytes:
    """What was sampled for a pool."""
    return (place / name).with_suffix(".replies").joinpath(REPLIES).read_bytes()


def test_problems_of_medium_difficulty_stay(place: Path) -> None:
    header = pooled(place, "all.jsonl")
    lines = [json.loads(line) for line in (place / "all.jsonl").read_text().splitlines()]
    tried = [json.loads(line) for line in replies(place, "all.jsonl").splitlines()]
    shares = {one["id"]: sum(reply["right"] for reply in one["replies"]) / 4 for one in tried}
    assert {line["id"]: line["share"] for line in lines[1:]} == {
        name: share for name, share in shares.items() if 0 < share < 0.9
    }
    assert lines[0]["tried"] == 24 == sum(header.shares) and lines[0]["pooled"] == len(lines) - 1 > 0
    assert header.pass_at[1] == pytest.approx(sum(shares.values()) / 24)
    assert header.pass_at[4] == pytest.approx(sum(share > 0 for share in shares.values()) / 24)
    assert header.levels[0].share == pytest.approx(header.pass_at[1])
    # Other bounds choose other problems from the same replies.
    before = replies(place, "all.jsonl")
    assert pooled(place, "all.jsonl", low=0.2, high=0.3).pooled == sum(s == 0.25 for s in shares.values())
    assert replies(place, "all.jsonl") == before
    # More problems come after those that are there.
    pooled(place, "all.jsonl", problems=30)
    assert replies(place, "all.jsonl").startswith(before) and replies(place, "all.jsonl").count(b"\n") == 30
    with pytest.raises(ConfigError, match=r"all.replies: holds replies sampled with max_tokens 2, not 3"):
        pooled(place, "all.jsonl", max_tokens=3)


def test_replies_do_not_depend_on_where_sampling_stopped(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled(place, "whole.jsonl")
    monkeypatch.setattr("coterie.reinforce.survey._AT_ONCE", 12)
    append = Survey._append

    def dies(self: Survey, found: Any) -> None:
        append(self, found)
        with (self.folder / REPLIES).open("ab") as file:
            file.write(b'{"id": "small/0/ab')  # half a line
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Survey, "_append", dies)
        pooled(place, "halves.jsonl")
    assert not (place / "halves.jsonl").exists()
    kept = replies(place, "halves.jsonl").rpartition(b"\n")[0]
    assert kept.count(b"\n") == 2
    pooled(place, "halves.jsonl")
    assert replies(place, "halves.jsonl") == replies(place, "whole.jsonl")
    assert (place / "halves.jsonl").read_text() == (place / "whole.jsonl").read_text()


def test_a_killed_pool_goes_on(place: Path) -> None:
    """By the command, killed without a chance to clean up."""
    program = (
        "import sys, os, signal; from coterie.reinforce import survey; survey._AT_ONCE = 8\n"
        "append = survey.Survey._append\n"
        "def dies(self, found):\n"
        "    append(self, found)\n"
        "    if (self.folder / 'replies.jsonl').read_bytes().count(b'\\n') == 6:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "survey.Survey._append = dies\n"
        "from coterie.config.pool import PoolConfig; from coterie.recipes.pool import make_pool\n"
        f"make_pool(PoolConfig.from_dict({settings(place, 'killed.jsonl')!r}, 'pool'))\n"
    )
    code = subprocess.run([sys.executable, "-c", program], env=os.environ, capture_output=True, check=False)
    assert code.returncode == -signal.SIGKILL, code.stderr
    assert replies(place, "killed.jsonl").count(b"\n") == 6
    pooled(place, "killed.jsonl")
    pooled(place, "never-killed.jsonl")
    assert replies(place, "killed.jsonl") == replies(place, "never-killed.jsonl")


def test_a_pool_gives_its_problems_in_turn(place: Path) -> None:
    header = pooled(place, "turn.jsonl")
    pool = read_pool(place / "turn.jsonl", load_task(str(place / "small.py")))
    ids = [pool.problem(0, index, 3).id for index in range(2 * header.pooled)]
    assert set(ids) == {one.id for one in pool.problems}
    assert len(set(ids[: header.pooled])) == len(set(ids[header.pooled :])) == header.pooled
    assert [pool.problem(0, index, 3).id for index in range(5)] == ids[:5]


def test_reinforcement_asks_the_problems_of_its_pool(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pooled(place, "asked.jsonl")
    pool = read_pool(place / "asked.jsonl", load_task(str(place / "small.py")))
    monkeypatch.setattr("coterie.recipes.reinforce_parts._GATE_PROBLEMS", 4)
    given: dict[str, Any] = {"pool": str(place / "asked.jsonl"), "out": str(place / "run"), "method": "full"}
    given |= {"steps": 1, "prompts": 4, "group": 4, "least_groups": 1, "max_tokens": 2, "threads": 1}
    reinforce(
        str(place / "llama"), str(place / "small.py"), eval_problems=4, eval_every=0, gate=False, **given
    )
    (kept,) = (place / "run" / "rollouts").glob("*.jsonl.gz")
    asked = {json.loads(line)["problem"] for line in gzip.decompress(kept.read_bytes()).splitlines()}
    assert asked and asked <= {one.id for one in pool.problems}
    pooled(place, "asked.jsonl", high=0.4)
    with pytest.raises(ConfigError, match="pool of problems"):
        reinforce(str(place / "llama"), str(place / "small.py"), eval_problems=4, eval_every=0, **given)


def test_pools_that_are_refused(place: Path) -> None:
    pooled(place, "good.jsonl")
    family = load_task(str(place / "small.py"))
    head, first, *rest = (place / "good.jsonl").read_text().splitlines()
    bad = place / "bad.jsonl"

    def refused(lines: list[str], match: str) -> None:
        bad.write_text("\n".join(lines) + "\n")
        with pytest.raises(ConfigError, match=match):
            read_pool(bad, family)

    version = str(json.loads(head)["task_version"])
    refused([head.replace(version, "7"), first], "made with version 7 of task small, which is now at")
    refused([head.replace('"small"', '"parity"'), first], "is a pool of task parity, not of small")
    refused([head.replace('"train"', '"test"'), first], "problems that are held out from training")
    refused([head, first.replace('"level": 0', '"level": 10')], "problems that are held out from training")
    refused([head, first.replace('"index": ', '"index": 1')], "the task now has another problem in its place")
    refused([head], "holds no problems: ")
    refused([first, *rest], "is not a file of coterie pool; its first line is no header")
    refused([head, "{"], "is not a file of coterie pool: it")
    with pytest.raises(ConfigError, match="the pool says which levels are trained on; leave 'levels' out"):
        ReinforceConfig.from_dict({"model": "m", "task": "parity", "levels": "1", "pool": "p"}, "reinforce")
    with pytest.raises(ConfigError, match=r"low 0.5 must be below high 0.5"):
        PoolConfig.from_dict({"model": "m", "task": "parity", "low": 0.5, "high": 0.5}, "pool")


def test_the_held_out_level_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="level 10 is held out from training; choose levels up to 9"):
        pooled(place, "ten.jsonl", task="parity", levels="9-10")


def test_without_a_problem_in_the_middle_it_says_so(place: Path) -> None:
    with pytest.raises(TrainingError, match="0% of replies are right, on no problem of medium difficulty"):
        pooled(place, "none.jsonl", task="countdown", levels="5", problems=4)
