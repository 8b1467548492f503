"""A benchmark scored: records, seeds, items that do not fit, going on after a stop, no foreign records."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from coterie.benchmarks.item import BenchmarkItem, ItemReply
from coterie.config import ConfigError
from coterie.config.errors import DataError
from coterie.evaluate import scoring
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.kept_records import read_records, records_root
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.scoring import ScoredTask, file_name, score_benchmark
from coterie.results.evaluation import ExecProfile, ModelIdentity
from coterie.stats.single import task_score
from tests.evaluate.items import Choices, Letters, identity_of, model_of


class Counted(LocalSubject):
    """A subject that counts what it is asked, and stops after some of it."""

    asked = 0
    most = 10**6

    def replies(self, items, options, environment=lambda item: ()):  # type: ignore[no-untyped-def]
        if self.asked + len(items) > self.most:
            raise KeyboardInterrupt
        self.asked += len(items)
        return super().replies(items, options, environment)


def subject(name: str = "a", seed: int = 3, kind: str = "moe") -> Counted:
    return Counted(model_of(kind=kind, seed=seed), name, identity=identity_of(name), profile=PROFILE)


PROFILE = ExecProfile(engine="coterie", version="0", dtype="float32")
OPTIONS = ReplyOptions(max_tokens=8, effort="none")


@pytest.mark.parametrize("kind", ["moe", "dense"])
def test_the_score_is_what_the_records_say(kind: str) -> None:
    done = score_benchmark(subject(kind=kind), Letters(), OPTIONS)
    assert [record.id for record in done.records] == [f"l{number}" for number in range(12)]
    scores = [record.score for record in done.records]
    clusters = [record.cluster for record in done.records]
    result = done.result
    assert result.score == task_score(scores, clusters) and result.score.clusters == 6
    assert result.n == 12 and set(result.groups) == {"odd", "even"} and result.between_seeds is None
    assert result.extraction.gap == pytest.approx(1 - sum(scores) / 12)
    assert result.samples.rows == 12 and result.samples.merkle_root == records_root(done.records)
    assert all(record.right == ("e" in record.reply) for record in done.records)


def test_choices_are_scored() -> None:
    done = score_benchmark(subject(), Choices(), OPTIONS)
    for record, item in zip(done.records, Choices().items(), strict=True):
        best = max(range(4), key=lambda number: record.logprobs[number])
        assert record.right == (best == item.answer) and record.extracted == item.choices[best]
    assert done.result.mode == "choice" and done.result.extraction.gap is None


def test_several_seeds_are_means_of_items() -> None:
    sampled = dataclasses.replace(OPTIONS, temperature=1.0)
    done = score_benchmark(subject(), Letters(), sampled, seeds=(1, 2, 3))
    assert len(done.records) == 36 and {record.seed for record in done.records} == {1, 2, 3}
    first = [record.score for record in done.records if record.id == "l0"]
    assert done.result.n == 12 and done.result.between_seeds is not None and len(first) == 3
    assert done.result.score.value == pytest.approx(sum(record.score for record in done.records) / 36)
    with pytest.raises(ConfigError, match="temperature"):
        score_benchmark(subject(), Letters(), OPTIONS, seeds=(1,))


def test_items_that_do_not_fit_are_counted_and_not_cut() -> None:
    done = score_benchmark(subject(), Letters(long=[3]), OPTIONS)
    (record,) = [record for record in done.records if record.failed]
    assert record.id == "l3" and "256 positions" in record.why and not record.right
    assert done.result.n == 11 and done.result.extraction.failed == 1
    with pytest.raises(ConfigError, match="no item fits"):
        score_benchmark(subject(), Letters(2, long=[0, 1]), OPTIONS)


def test_a_reply_that_failed_has_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = subject()
    inner = asked.replies

    def broken(items: Sequence[BenchmarkItem], *rest: object) -> list[ItemReply]:
        return [ItemReply(failed="the tool broke"), *inner(items[1:], *rest)]

    monkeypatch.setattr(asked, "replies", broken)
    done = score_benchmark(asked, Letters(4), OPTIONS)
    assert done.records[0].failed and done.records[0].why == "the tool broke" and done.result.n == 3


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BLOCK", 4)


def stopped(folder: Path, most: int = 8) -> ScoredTask:
    """The whole result, after a run into the folder that was stopped."""
    asked = subject()
    asked.most = most
    with pytest.raises(KeyboardInterrupt):
        score_benchmark(asked, Letters(), OPTIONS, folder=folder)
    assert asked.asked == most
    return score_benchmark(subject(), Letters(), OPTIONS)


@pytest.mark.usefixtures("small_blocks")
def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    whole = stopped(tmp_path)
    part = tmp_path / "letters.part.jsonl"
    assert len(part.read_text().splitlines()) == 8
    part.write_text(part.read_text()[:-9])  # killed in the middle of a line
    again = subject()
    done = score_benchmark(again, Letters(), OPTIONS, folder=tmp_path)
    assert again.asked == 5 and done.records == whole.records
    assert read_records(tmp_path / "letters.jsonl") == whole.records and not part.exists()
    once_more = subject()
    assert score_benchmark(once_more, Letters(), OPTIONS, folder=tmp_path).records == whole.records
    assert once_more.asked == 0


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("change", ["weights", "profile", "options", "items", "nobody"])
def test_records_of_another_model_are_never_used(tmp_path: Path, change: str) -> None:
    """Other weights under the same name, another profile, other options, other items: all is asked again."""
    stopped(tmp_path)
    again = subject()
    benchmark, options, expected = Letters(), OPTIONS, 12
    if change == "weights":
        again.identity = again.identity.model_copy(update={"weights_tensors": f"sha256:{'9' * 64}"})
    elif change == "profile":
        again.profile = PROFILE.model_copy(update={"dtype": "bfloat16"})
    elif change == "options":
        options = dataclasses.replace(OPTIONS, system="Be short.")
    elif change == "items":
        benchmark = Letters(long=[4])  # the first four are as they were
        expected = 7
    else:
        again.identity = again.identity.model_copy(update={"weights_tensors": None})
    score_benchmark(again, benchmark, options, folder=tmp_path)
    assert again.asked == expected


@pytest.mark.usefixtures("small_blocks")
def test_a_model_that_does_not_say_who_it_is_never_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        nobody = ModelIdentity(name="a", weights_tensors=None)
        nameless = Counted(model_of(), "a", identity=nobody, profile=PROFILE)
        score_benchmark(nameless, Letters(), OPTIONS, folder=tmp_path)
        assert nameless.asked == 12


def test_a_changed_record_is_found(tmp_path: Path) -> None:
    score_benchmark(subject(), Letters(), OPTIONS, folder=tmp_path)
    path = tmp_path / "letters.jsonl"
    root = records_root(read_records(path))
    path.write_text(path.read_text().replace('"id":"l1"', '"id":"l9"', 1))
    assert records_root(read_records(path)) != root
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match="line 12"):
        read_records(path)


def test_files_of_odd_names() -> None:
    assert file_name("gsm8k_cot") == "gsm8k_cot"
    assert "/" not in file_name("a/../b c") and file_name("a/b") != file_name("a-b") != file_name("a:b")
