"""Tasks of lm-eval as benchmarks: items, verdicts, chats, and what stands in the way in one line each."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("lm_eval")

import coterie
from coterie.benchmarks.item import ItemReply
from coterie.config import ConfigError
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.harness.benchmark import harness_benchmarks
from coterie.evaluate.harness.subject import HarnessSubject
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.scoring import score_benchmark
from tests.evaluate.harness.support import save_model, save_tasks


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_tasks(tmp_path_factory.mktemp("tasks"))


def changed(path: Path, **settings: object) -> Path:
    """The task with other settings, in a file next to it."""
    new = path.with_name(f"changed_{'_'.join(settings)}.yaml")
    new.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))
    return new


def test_an_item_is_the_question_alone_and_its_digest_covers_the_examples(paths: dict[str, Path]) -> None:
    (two,) = harness_benchmarks(str(paths["local_choices"]))
    (none,) = harness_benchmarks(str(changed(paths["local_choices"], num_fewshot=0)))
    assert two.fewshot and not none.fewshot
    for a, b in zip(two.items(), none.items(), strict=True):
        assert a.question == b.question and a.choices == b.choices and a.cluster == b.cluster
        assert a.digest != b.digest
    again = harness_benchmarks(str(paths["local_choices"]))[0]
    assert [item.digest for item in again.items()] == [item.digest for item in two.items()]


def test_verdicts_are_those_of_the_task(paths: dict[str, Path]) -> None:
    (choices,) = harness_benchmarks(str(paths["local_choices"]))
    item = choices.items()[0]
    at = [-1.0 if place == item.answer else -5.0 for place in range(4)]
    flags = (False,) * 4
    assert choices.judge(item, ItemReply(logprobs=tuple(at), greedy=flags)).right
    assert not choices.judge(item, ItemReply(logprobs=tuple(-value for value in at), greedy=flags)).right
    assert choices.judge(item, ItemReply()).failed  # a checker's trouble is no score
    (short,) = harness_benchmarks(str(paths["local_short"]))
    item = short.items()[0]
    assert short.judge(item, ItemReply(text=item.answer)).right
    assert not short.judge(item, ItemReply(text=f"{item.answer}.")).right
    (texts,) = harness_benchmarks(str(paths["local_texts"]))
    item = texts.items()[0]
    verdict = texts.judge(item, ItemReply(logprobs=(-10.0,)))
    assert verdict.lower_is_better and not verdict.right
    assert verdict.score == pytest.approx(10 / 0.6931471805599453 / len(item.answer))


def test_a_filter_that_finds_nothing_is_unparsed(paths: dict[str, Path]) -> None:
    find = {"function": "regex", "regex_pattern": "answer is (\\w+)"}
    loose = {"function": "regex", "regex_pattern": "(\\w+)$"}
    first = {"function": "take_first"}
    filters = [{"name": "strict", "filter": [find, first]}, {"name": "loose", "filter": [loose, first]}]
    (benchmark,) = harness_benchmarks(str(changed(paths["local_short"], filter_list=filters)))
    item = benchmark.items()[0]
    strict = benchmark.judge(item, ItemReply(text=f"the answer is {item.answer}"))
    assert strict.right and strict.extracted == item.answer
    found = benchmark.judge(item, ItemReply(text=f"it must be {item.answer}"))
    assert (found.score, found.lenient, found.unparsed) == (0.0, 1.0, True)


def test_a_chat_is_asked_by_the_models_template(paths: dict[str, Path], tmp_path: Path) -> None:
    subject = LocalSubject(coterie.load(save_model(tmp_path / "model", "dense")))
    path = changed(paths["local_choices"], num_fewshot=0, doc_to_text="{{question[:20]}}")
    (benchmark,) = harness_benchmarks(str(path), chat=True)
    scored = score_benchmark(HarnessSubject(subject, benchmark), benchmark, limit=2)
    assert scored.result.prompt.form == "chat" and len(scored.records) == 2
    (short,) = harness_benchmarks(str(paths["local_short"]), chat=True)
    scored = score_benchmark(
        HarnessSubject(subject, short), short, ReplyOptions(max_tokens=12, reasoning_tokens=8), limit=2
    )
    assert all("e" not in record.reply.split("</think>")[-1] for record in scored.records)  # its stop string
    options = ReplyOptions(max_tokens=12, form="chat")
    long = HarnessSubject(subject, short).too_long([short.items()[0], short.items()[69]], options, False)
    assert long.keys() == {"69"}  # a question longer than the model's positions


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere/task.yaml", "lm-eval:nowhere/task.yaml: there is no such file"),
        ("arc_eazy", r"lm-eval has no such task \(did you mean 'arc_easy'\?\)"),
        ("arc_easy", "needs the data set 'allenai/ai2_arc'.*HF_HUB_OFFLINE"),
    ],
)
def test_what_stands_in_the_way_is_one_line(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        harness_benchmarks(f"lm-eval:{name}")
    assert "\n" not in str(caught.value)


def test_tasks_that_have_no_score_or_run_code_are_refused(paths: dict[str, Path]) -> None:
    matthews = [{"metric": "mcc", "aggregation": "matthews_corrcoef", "higher_is_better": True}]
    with pytest.raises(ConfigError, match="no means over items"):
        harness_benchmarks(str(changed(paths["local_choices"], metric_list=matthews)))
    code = changed(paths["local_short"], unsafe_code=True)
    with pytest.raises(ConfigError, match="runs the code of replies; allow it"):
        harness_benchmarks(str(code))
    assert harness_benchmarks(str(code), execute=True)[0].executes
    missing = changed(paths["local_short"], dataset_kwargs={"data_files": {"test": "/nowhere.jsonl"}})
    with pytest.raises(ConfigError, match="cannot be used by lm-eval"):
        harness_benchmarks(str(missing))
