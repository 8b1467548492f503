"""Answers of replies by rule, and elections by hand."""

from __future__ import annotations

import pytest

from coterie.reasoning.votes import Ballot, answer_of, mean_logprob, normalised, tally


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        ("answer", "so\nAnswer: 12", "12"),
        ("answer", "the answer is 12", None),
        ("answer", "Answer: 1\nAnswer: 2", None),
        ("boxed", r"thus $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        ("boxed", r"\boxed{1} no, \boxed{ 2 }", "2"),
        ("boxed", r"\boxed{1", None),
        ("number", "12 apples and 7 make 1,019.50 in all", "1019.5"),
        ("number", "none", None),
        ("text", "  Yes. ", "yes"),
        ("text", " ", None),
        ("auto", "I take 3.\nAnswer: 4", "4"),
        ("auto", r"3, so \boxed{5}", "5"),
        ("auto", "it is 6 or 7", "7"),
        ("auto", "Blue!", "blue"),
    ],
)
def test_the_answer_of_a_reply(rule, text, answer):
    assert answer_of(text, rule) == answer


def test_a_reply_that_was_cut_off_has_only_a_marked_answer():
    assert answer_of("first 3 and then", "auto", cut=True) is None
    assert answer_of("Answer: 3", "auto", cut=True) == "3"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("12", " 12. "),
        ("1,200", "1200.0"),
        ("$5", "5"),
        ("−3", "-3"),
        ("0.50", "0.5"),
        ("The  Sun", "the sun"),
    ],
)
def test_equal_answers_are_equal_texts(one, other):
    assert normalised(one) == normalised(other)


def test_different_answers_stay_different():
    assert len({normalised(text) for text in ("12", "1.2", "-12", "twelve", "12 km", "1,2", "9" * 50)}) == 7


def test_the_majority_wins_and_its_likeliest_reply_is_shown():
    table = tally([Ballot("4", -0.1), Ballot("5", -0.9), Ballot("5", -0.5), Ballot("5", -0.7)], "number")
    assert (table.answer, table.majority, table.winner, table.unanswered) == ("5", True, 2, 0)
    assert [(row.answer, row.count, row.share) for row in table.rows] == [("5", 3, 0.75), ("4", 1, 0.25)]
    assert table.rows[0].mean_logprob == pytest.approx(-0.7)
    assert table.says == "3 of 4 replies answer 5"


def test_a_tie_goes_to_the_likelier_answer_and_is_no_majority():
    table = tally([Ballot("4", -0.5), Ballot("5", -0.4), Ballot("4", -0.7), Ballot("5", -0.4)])
    assert (table.answer, table.majority) == ("5", False)
    assert table.says == "no majority: 2 of 4 replies answer 5"


def test_replies_without_an_answer_count_against_a_majority():
    ballots = [Ballot("Answer: 1", -1.0), Ballot("hm", -0.1), Ballot("hm", -0.2), Ballot("Answer: 1", -2.0)]
    table = tally(ballots, "answer")
    assert (table.rows[0].share, table.majority, table.unanswered, table.winner) == (0.5, False, 2, 0)
    nothing = tally([Ballot("hm", -0.3), Ballot("so", -0.2)], "answer")
    assert (nothing.answer, nothing.winner, nothing.says) == (None, 1, "none of 2 replies has an answer")


def test_the_table_as_json():
    found = tally([Ballot("x 7", float("-inf")), Ballot("7", -1.0)], "number").to_dict(["x 7", "7"])
    assert found["table"] == [
        {"answer": "7", "count": 2, "share": 1.0, "mean_logprob": -9999.0, "example": "7"}
    ]
    assert found["answer"] == "7" and found["majority"] and found["of"] == 2


def test_means():
    assert mean_logprob([-1.0, -3.0]) == -2.0 and mean_logprob([]) == 0.0
