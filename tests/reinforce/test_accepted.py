"""Which replies are learnt, by hand."""

from __future__ import annotations

from coterie.reinforce.accepted import accept, row_of
from coterie.reinforce.survey import Surveyed, SurveyedReply
from coterie.tasks.problem import TaskProblem


def surveyed(level: int, name: str, *replies: str) -> Surveyed:
    """A problem with its replies: `+a` is right, `-a` wrong, `~a` right and cut off."""
    made = tuple(SurveyedReply("", text[1:], text[0] != "-", 1.0, text[0] == "~", (1, 2)) for text in replies)
    return Surveyed(TaskProblem("x", level, name, "1"), 0, made)


def kept(found: list[Surveyed], per_problem: int = 4, spread: float | None = None) -> list[str]:
    """`prompt:reply` of each row."""
    accepted, _ = accept(found, per_problem, spread, lambda problem, reply: "?" not in reply.content)
    return [f"{one.of.problem.prompt}:{one.reply.content}" for one in accepted]


def test_right_whole_different_and_few() -> None:
    one = surveyed(0, "p", "+a", "-b", "+a ", "~c", "+d?", "+e", "+f", "+g")
    accepted, record = accept([one], 3, None, lambda problem, reply: "?" not in reply.content)
    assert [reply.reply.content for reply in accepted] == ["a", "e", "f"]
    assert [reply.number for reply in accepted] == [0, 5, 6]
    assert (record.problems, record.solved, record.replies, record.right, record.rows) == (1, 1, 8, 7, 3)
    assert (record.truncated, record.duplicate, record.rendered_otherwise, record.beyond_problem) == (1,) * 4
    assert record.tokens == 16 and record.levels[0].share == 7 / 8
    assert record.words() == (
        "7 of 8 replies are right (1 of 1 problems); 3 rows (left out: 1 truncated, 1 duplicate, 1 rendered "
        "otherwise, 1 beyond problem)"
    )


def test_a_level_gives_few_rows_and_its_hardest_problems_first() -> None:
    easy = [surveyed(0, f"e{n}", "+a", "+b", "-c") for n in range(4)]
    hard = surveyed(0, "h", "+a", "-b", "-c")
    other = surveyed(1, "o", "+a", "+b")
    found = [*easy, hard, other]
    assert len(kept(found)) == 11
    # Rows by level are 9 and 2; their median is 5.5, so a spread of 0.5 leaves three of level 0.
    assert kept(found, spread=0.5) == ["e0:a", "e1:a", "h:a", "o:a", "o:b"]
    assert kept(found, spread=1.0) == ["e0:a", "e0:b", "e1:a", "e2:a", "e3:a", "h:a", "o:a", "o:b"]
    assert kept([surveyed(0, "n", "-a")], spread=1.0) == []


def test_a_row_holds_the_reasoning_in_its_field() -> None:
    reply = SurveyedReply("0 1 1", "Answer: 1", True, 1.0, False, (1,))
    one = Surveyed(TaskProblem("x", 2, "Question?", "1"), 0, (reply,))
    (accepted,), _ = accept([one], 4, None, lambda problem, reply: True)
    assert row_of(accepted, instruction=False) == {
        "messages": [
            {"role": "user", "content": "Question?"},
            {"role": "assistant", "content": "Answer: 1", "reasoning_content": "0 1 1"},
        ],
        "metadata": {"problem": one.problem.id, "reply": 0, "share_right": 1.0},
    }
    assert row_of(accepted, instruction=True)["messages"][0]["role"] == "system"
