"""What tasks give to pretraining and tuning is of the training split, and every reply in it is right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.data.lint_examples import lint_examples
from coterie.tasks import TASKS, load_task
from coterie.tasks.levels import read_levels
from coterie.tasks.rows import conversation, conversations, documents


@pytest.mark.parametrize("name", [name for name in TASKS if name != "programs"])
def test_every_reply_is_right_and_of_the_training_split(name: str) -> None:
    family = load_task(name)
    rows = list(conversations(family, [1, 4], 12, steps="text"))
    for index, row in enumerate(rows):
        problem = family.problem([1, 4][index % 2], index)
        assert problem.split == "train"
        assert row["messages"][0] == {"role": "user", "content": problem.prompt}
        assert family.judge(problem, row["messages"][-1]["content"]).right
        assert ("tools" in row) == (name == "tool-chains")
    texts = list(documents(family, [1, 4], 3))
    assert len(texts) == 3 and all(family.problem(1, 0).prompt.split()[0] in text for text in texts)


def test_steps_are_shown_as_asked() -> None:
    family = load_task("parity")
    problem = family.problem(3, 0)
    think = conversation(family, problem, True, "think", instruction=True)["messages"]
    assert [message["role"] for message in think] == ["system", "user", "assistant"]
    assert think[-1]["reasoning_content"] == problem.steps and problem.steps not in think[-1]["content"]
    assert conversation(family, problem, True, "text")["messages"][-1]["content"].startswith(problem.steps)
    shares = [
        sum(
            "reasoning_content" in row["messages"][-1]
            for row in conversations(family, [5], 200, worked_share=share)
        )
        for share in (0.0, 0.25, 1.0)
    ]
    assert shares[0] == 0 and 25 <= shares[1] <= 75 and shares[2] == 200


def test_rows_are_examples_for_tuning(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [row for name in ("parity", "tool-chains") for row in conversations(load_task(name), [2], 5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = lint_examples([str(path)], None, 4096, 0)
    assert not report.problems, report.to_text(False)


def test_levels() -> None:
    known = range(11)
    assert read_levels(None, known) == list(range(10))
    assert read_levels("10,2-4,3", known) == [10, 2, 3, 4]
    for wrong, message in (
        ("x", "write them as 3, 0-4 or 0,2,5"),
        ("4-2", "levels 0 to 10"),
        ("11", "levels 0 to 10"),
    ):
        with pytest.raises(Exception, match=message):
            read_levels(wrong, known)
