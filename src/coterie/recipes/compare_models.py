"""Models on the user's own examples, on chosen tasks and on this machine: which one to take."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from coterie.benchmarks import Benchmark
from coterie.config import ConfigError, DataError
from coterie.config.evaluate import EvalConfig
from coterie.config.files import write_json
from coterie.data.examples import ExampleSet, read_all
from coterie.data.formats import Example
from coterie.evaluate.scoring import ScoredTask, item_means, score_benchmark
from coterie.machine.facts import machine_words, versions
from coterie.recipes.compare_sides import (
    ComparedSide,
    LocalSide,
    SidePace,
    answer_bytes,
    key_of,
    open_side,
    paces,
)
from coterie.recipes.compare_tuned import compare_tuned, unseen
from coterie.recipes.eval_findings import reply_options
from coterie.recipes.evaluate import asked_of, benchmarks_of
from coterie.remote.client import is_url
from coterie.report.compare_models_page import write_models_page
from coterie.results.compare_models import ComparedModel, ModelComparison, ModelPair
from coterie.results.intervals import Estimate
from coterie.results.paired import PairedDifference
from coterie.stats.paired import compare_bits, compare_scores, corrected

_log = logging.getLogger("coterie")
_ROUNDS = 3  # of measuring speed, in turn
Scores = Mapping[str, Mapping[str, ScoredTask]]  # model -> task


@dataclass(frozen=True)
class WeighedAnswers:
    """Bits of the answers to the examples under each model that weighs them, and what was left out."""

    examples: list[Example]
    sizes: np.ndarray
    bits: dict[str, np.ndarray]
    left_out: int
    why: str


def compare_models(
    paths: Sequence[str],
    data: Sequence[str],
    tasks: Sequence[str] = (),
    *,
    limit: int = 200,
    clients: int = 4,
    price_per_hour: float | None = None,
    key_file: str | None = None,
    allow_code: bool = False,
    tune: Sequence[str] = (),
    tune_steps: int | None = None,
    out: str | Path = "runs/compare",
) -> ModelComparison:
    """Measure every model on the examples of `data` and on `tasks`, and its speed, in turn with the others.

    `paths`: directories, GGUF files, hub ids, addresses, or `ADDRESS#MODEL` of a server. `limit`: examples,
    and items of each task, at most. `clients`: replies at once. `key_file`: of the servers. `allow_code`: run
    the programs that replies hold. `tune`: examples for the same tuning of every model that is here, for
    `tune_steps` (default: three passes). Writes `comparison.json` and `report.html` below `out`.
    Errors: `CoterieError` subclasses, one line each.
    """
    _check(paths, tune)
    # An unknown task and data that cannot be read end the run before a model is loaded.
    asked = EvalConfig(model=paths[0], tasks=tuple(tasks) or ("none",), limit=limit, allow_code=allow_code)
    benchmarks = list(benchmarks_of(asked)) if tasks else []
    found, learnt = read_all(data), read_all(tune)
    sides = [open_side(path, key_file) for path in paths]
    if not benchmarks:
        _check_weighed(sides)
    answers, folder = _answers(sides, found, limit), Path(out)
    if tune:
        unseen(learnt.examples, answers.examples)  # nothing to measure on ends the run here
    scores = {
        side.name: _scores(side, benchmarks, asked, folder / "samples" / str(place))
        for place, side in enumerate(sides, 1)
    }
    _log.info("measuring speed")
    speeds = paces(sides, clients, _ROUNDS)
    tuned = compare_tuned(sides, tune, answers.examples, folder / "tuned", tune_steps) if tune else None
    result = ModelComparison(
        models=[
            _figures(side, answers, scores[side.name], speeds[side.name], clients, price_per_hour)
            for side in sides
        ],
        pairs=_pairs(sides, answers, scores),
        examples=len(answers.examples),
        left_out=answers.left_out,
        left_out_why=answers.why,
        tuned=tuned,
        price_per_hour=price_per_hour,
        machine=machine_words(),
        versions=versions(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", result.to_dict())
    write_models_page(result, folder / "report.html")
    return result


def _check(paths: Sequence[str], tune: Sequence[str]) -> None:
    """Errors: `ConfigError` for one model, the same model twice, and nothing that can be tuned."""
    if len(paths) < 2 or len(set(paths)) < len(paths):
        raise ConfigError("compare: give two or more different models")
    if tune and all(map(is_url, paths)):
        raise ConfigError("compare: --tune needs a model of this machine, and all are behind addresses")


def _check_weighed(sides: Sequence[ComparedSide]) -> None:
    """Errors: `ConfigError` for a server without log-probabilities, where there is no task either."""
    for side in sides:
        if side.blind:
            raise ConfigError(
                f"compare: {side.name} does not weigh given answers ({side.blind}); give --tasks, for which "
                "its replies are enough"
            )


def _answers(sides: Sequence[ComparedSide], found: ExampleSet, limit: int) -> WeighedAnswers:
    """The examples that all models can read, weighed by each.

    Errors: `DataError` where there are not two of them.
    """
    usable: list[Example] = [example for example in found.examples if answer_bytes(example)][:limit]
    readers = [side for side in sides if not side.blind]
    read = [side.read(usable) for side in readers]
    why = next((why for _, why in read if why), "") or next(map(str, found.problems), "")
    together = [example for example in usable if all(key_of(example) in keys for keys, _ in read)]
    unusable = len(found.examples) - sum(map(bool, map(answer_bytes, found.examples)))
    if len(together) < 2:
        hint = why or (f"{unusable} have not one answer" if unusable else "give more")
        raise DataError(f"compare: fewer than two examples can be read by all models; {hint}")
    keys = [key_of(example) for example in together]
    bits = {}
    for side in readers:
        _log.info("%s: %d examples", side.name, len(keys))
        bits[side.name] = side.bits(keys)
    sizes = np.array([answer_bytes(example) for example in together], dtype=np.float64)
    left_out = len(usable) - len(together) + unusable + len(found.problems)
    return WeighedAnswers(
        together, sizes, bits, left_out, why or ("they have not one answer" if unusable else "")
    )


def _scores(
    side: ComparedSide, benchmarks: Sequence[Benchmark], asked: EvalConfig, folder: Path
) -> dict[str, ScoredTask]:
    """The tasks of one model; replies are kept in `folder`, and the same comparison goes on with them."""
    found = {}
    for benchmark in benchmarks:
        _log.info("%s: %s", side.name, benchmark.name)
        found[benchmark.name] = score_benchmark(
            asked_of(side.subject, benchmark), benchmark, reply_options(asked, benchmark),
            limit=asked.limit, folder=folder,
        )  # fmt: skip
    return found


def _figures(
    side: ComparedSide,
    answers: WeighedAnswers,
    scores: Mapping[str, ScoredTask],
    speed: SidePace,
    clients: int,
    price: float | None,
) -> ComparedModel:
    facts = side.facts()
    bits = answers.bits.get(side.name)
    keys = [key_of(example) for example in answers.examples]
    routing = side.routing(keys) if isinstance(side, LocalSide) else None
    known = price is not None and speed.many is not None and not facts.get("served")
    return ComparedModel(
        name=side.name,
        identity=side.subject.identity,
        bits=None if bits is None else float(bits.sum() / answers.sizes.sum()),
        blind=side.blind,
        scores={
            task: Estimate(value=one.result.score.value, low=one.result.score.low, high=one.result.score.high)
            for task, one in scores.items()
        },
        prefill=speed.prefill,
        one=speed.one,
        many=speed.many,
        clients=clients,
        dollars=price / (speed.many * 3600) * 1e6 if known and price and speed.many else None,
        routing=routing,
        **facts,
    )


def _pairs(sides: Sequence[ComparedSide], answers: WeighedAnswers, scores: Scores) -> list[ModelPair]:
    """Every two models, with Holm's correction over all that was compared."""
    found: dict[tuple[str, str, str], PairedDifference] = {}
    names = [side.name for side in sides]
    for first, second in combinations(names, 2):
        if first in answers.bits and second in answers.bits:
            found[first, second, ""] = compare_bits(answers.bits[first], answers.bits[second], answers.sizes)
        for task in scores[first]:
            found[first, second, task] = _task(scores[first][task], scores[second][task], task)
    found = corrected(found)
    return [
        ModelPair(
            first=first,
            second=second,
            examples=found.get((first, second, "")),
            tasks={task: found[first, second, task] for task in scores[first]},
        )
        for first, second in combinations(names, 2)
    ]


def _task(first: ScoredTask, second: ScoredTask, task: str) -> PairedDifference:
    """One task of two models, on the items that were judged for both. Errors: `DataError` for none."""
    one, other = (item_means(done.records) for done in (first, second))
    clusters = {record.id: record.cluster for record in first.records}
    both = [item for item in one if item in other]
    if not both:
        raise DataError(f"{task}: no item was judged for both models")
    return compare_scores(
        [one[item] for item in both],
        [other[item] for item in both],
        [clusters[item] for item in both],
        lower_is_better=first.result.score.lower_is_better,
    )
