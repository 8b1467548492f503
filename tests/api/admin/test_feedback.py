"""Judgements from the page: lines that tuning reads unchanged, written completely or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from coterie.api.admin.feedback import append_line
from coterie.data.examples import read_examples
from coterie.data.formats import ChatExample, LabelledExample, PreferenceExample
from coterie.hosting.errors import ApiError
from tests.serve.support import ASK, call, serving

GOOD, BAD = ({"role": "assistant", "content": text} for text in ("Hi!", "Go away."))


def test_judgements_become_examples_for_tuning(tmp_path: Path) -> None:
    with serving(feedback=str(tmp_path / "said")) as server:
        sent = [
            {
                "kind": "preference",
                "messages": ASK,
                "chosen": GOOD,
                "rejected": BAD,
                "about": {"a": {"model": "tiny"}},
            },
            {"kind": "label", "messages": ASK, "message": GOOD, "label": True},
            {"kind": "label", "messages": ASK, "message": BAD, "label": False},
            {"kind": "undecided", "messages": ASK, "replies": [GOOD, BAD], "about": {"verdict": "equal"}},
        ]
        for body in sent:
            status, _, answer = call(server.url, "POST", "/v1/feedback", body)
            assert status == 200, answer
    (pair,) = read_examples(str(tmp_path / "said/preferences.jsonl")).examples
    assert isinstance(pair, PreferenceExample) and isinstance(pair.chosen, ChatExample)
    assert [m.text for m in pair.chosen.messages] == ["Hello", "Hi!"] and pair.chosen.learn == (
        False,
        True,
    )
    labels = read_examples(str(tmp_path / "said/labels.jsonl")).examples
    assert [one.label for one in labels if isinstance(one, LabelledExample)] == [True, False]
    kept = json.loads((tmp_path / "said/undecided.jsonl").read_text())
    assert kept["about"] == {"verdict": "equal"} and len(kept["replies"]) == 2


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"kind": "preference", "messages": ASK, "chosen": GOOD}, "/rejected"),
        ({"kind": "preference", "messages": ASK, "chosen": GOOD, "rejected": ASK[0]}, "/rejected"),
        ({"kind": "label", "messages": ASK, "message": GOOD}, "/label"),
        ({"kind": "undecided", "messages": ASK}, "/replies"),
        ({"kind": "other", "messages": ASK}, "/kind"),
        ({"kind": "label", "messages": [], "message": GOOD, "label": True}, "/messages"),
    ],
)
def test_incomplete_judgements_are_refused_with_a_pointer(tmp_path: Path, body: dict, where: str) -> None:
    with serving(feedback=str(tmp_path / "said")) as server:
        status, _, answer = call(server.url, "POST", "/v1/feedback", body)
    assert status == 400 and answer["error"]["param"] == where
    assert not (tmp_path / "said").exists()


def test_a_server_without_feedback_says_so() -> None:
    with serving(feedback=None) as server:
        status, _, answer = call(server.url, "POST", "/v1/feedback", {"kind": "undecided", "messages": ASK})
    assert status == 404 and answer["error"]["code"] == "feedback_off"


def test_a_full_disk_loses_no_earlier_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.jsonl"
    append_line(path, {"n": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ApiError, match="No space left"):
            append_line(path, {"n": 2})
    append_line(path, {"n": 3})
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [1, 3]
