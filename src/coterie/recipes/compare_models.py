"""Models on the user's own examples, on chosen tasks and on this machine: which one to take."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from coterie.benchmarks import load_benchmark
from coterie.config import ConfigError, DataError
from coterie.config.files import write_json
from coterie.data.examples import ExampleSet, read_all
from coterie.data.formats import ChatExample, Example, PairExample
from coterie.data.tokenised import TokenExample, pack, tokenise_all
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.scoring import score_benchmark
from coterie.evaluate.tuning import unit_scores
from coterie.infer.model import LanguageModel, load
from coterie.infer.speed import measure_decode, measure_prefill
from coterie.machine.facts import machine_words, versions
from coterie.plan.counts import count_parameters
from coterie.remote.client import is_url
from coterie.report.compare_page import write_models_page
from coterie.results.accuracy import accuracy, accuracy_change
from coterie.results.compare_models import ComparedModel, ModelComparison, ModelPair
from coterie.stats.paired import holm
from coterie.stats.seeds import seeded_difference

_log = logging.getLogger("coterie")
_LONGEST = 2048  # tokens of an example; longer ones are left out for all models
_ROUNDS, _TOKENS = 3, 32  # of measuring speed, in turn; tokens of each reply


def compare_models(
    paths: Sequence[str],
    data: Sequence[str],
    tasks: Sequence[str] = (),
    *,
    limit: int = 200,
    clients: int = 4,
    price_per_hour: float | None = None,
    out: str | Path = "runs/compare",
) -> ModelComparison:
    """Measure every model on the examples of `data` and on `tasks`, and its speed, in turn with the others.

    `limit`: examples, and items of each task, at most. `clients`: replies at once. Writes `comparison.json`
    and `report.html` below `out`.
    Errors: `CoterieError` subclasses, one line each.
    """
    if len(paths) < 2 or len(set(paths)) < len(paths):
        raise ConfigError("compare: give two or more different models")
    served = next((path for path in paths if is_url(path)), None)
    if served is not None:
        raise ConfigError(f"compare: {served} is a server, and only models of this machine are compared")
    benchmarks = [load_benchmark(task) for task in tasks]  # an unknown name ends the run at once
    found = read_all(data)
    models = {path: load(path) for path in paths}
    bits, sizes, left_out, why = _answers(models, found, limit)
    right: dict[str, dict[str, list[bool]]] = {path: {} for path in paths}
    for benchmark in benchmarks:
        for path, model in models.items():
            _log.info("%s: %s", path, benchmark.name)
            scored = score_benchmark(LocalSubject(model, path), benchmark, limit=limit)
            right[path][benchmark.name] = [record.right for record in scored.records]
    speeds = _speeds(models, clients)
    measured = [
        _figures(path, model, bits[path], sizes, right[path], speeds[path], clients, price_per_hour)
        for path, model in models.items()
    ]
    result = ModelComparison(
        models=measured,
        pairs=_pairs(list(paths), bits, sizes, right),
        examples=len(sizes),
        left_out=left_out,
        left_out_why=why,
        price_per_hour=price_per_hour,
        machine=machine_words(),
        versions=versions(),
    )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", result.to_dict())
    write_models_page(result, folder / "report.html")
    return result


def _answers(
    models: Mapping[str, LanguageModel], found: ExampleSet, limit: int
) -> tuple[dict[str, np.ndarray], np.ndarray, int, str]:
    """Bits of the answer of each example under each model, the answers' bytes, and what was left out.

    Errors: `DataError` where not two examples can be read by all models.
    """
    usable = [example for example in found.examples if answer_bytes(example)][:limit]
    longest = min(_LONGEST, *(model.config.max_positions for model in models.values()))
    kept: dict[str, dict[tuple[str, int | None], TokenExample]] = {}
    why = ""
    for path, model in models.items():
        if model.tokenizer is None:
            raise ConfigError(f"{path}: has no tokenizer.json, which reading examples needs; add one")
        read = tokenise_all(ExampleSet(found.format, list(usable)), model.tokenizer, longest)
        why = why or (str(read.problems[0]) if read.problems else "")
        whole = [one for one in read.examples if one.part == 0 and one.label is None]
        kept[path] = {(one.origin.file, one.origin.line): one for one in whole}
    together = [
        example
        for example in usable
        if all((example.origin.file, example.origin.line) in one for one in kept.values())
    ]
    if len(together) < 2:
        raise DataError(f"compare: fewer than two examples can be read by all models; {why or 'give more'}")
    bits = {}
    for path, model in models.items():
        _log.info("%s: %d examples", path, len(together))
        chosen = [kept[path][(one.origin.file, one.origin.line)] for one in together]
        length = max(one.positions for one in chosen)
        assert model.tokenizer is not None
        rows = pack(chosen, length, model.tokenizer.eos_id, together=False)
        scores = unit_scores(model.model, rows, model.device)
        bits[path] = np.array([score.nats for score in scores]) / math.log(2)
    sizes = np.array([answer_bytes(example) for example in together], dtype=np.float64)
    return bits, sizes, len(usable) - len(together), why


def answer_bytes(example: Example) -> int:
    """Bytes of what an example answers, the same for every model; 0 for examples without one answer."""
    if isinstance(example, ChatExample):
        learn = example.learn or [message.role == "assistant" for message in example.messages]
        said = [message.text for message, its in zip(example.messages, learn, strict=True) if its]
        return sum(len(text.encode()) for text in said)
    return len(example.completion.encode()) if isinstance(example, PairExample) else 0


def _speeds(models: Mapping[str, LanguageModel], clients: int) -> dict[str, tuple[float, float, float, str]]:
    """Medians of reading a prompt, one reply and several together; every round takes all models in turn."""
    found: dict[str, list[tuple[float, float, float]]] = {path: [] for path in models}
    kernels = {}
    for _ in range(_ROUNDS):
        for path, model in models.items():
            ids = [number % model.config.vocab_size for number in range(1, 1 + min(64, _room(model)))]
            one = measure_decode(model.model, ids, _TOKENS, repeats=1)
            many = measure_decode(model.model, ids, _TOKENS, batch=clients, repeats=1)
            read = measure_prefill(model.model, ids, repeats=1)
            found[path].append((read.tokens_per_second, one.tokens_per_second, many.tokens_per_second))
            kernels[path] = one.kernels
    return {
        path: (*(median(column) for column in zip(*rows, strict=True)), kernels[path])  # type: ignore[misc]
        for path, rows in found.items()
    }


def _room(model: LanguageModel) -> int:
    """Tokens of a prompt that leave room for the replies."""
    return max(1, model.config.max_positions - _TOKENS - 2)


def _figures(
    path: str,
    model: LanguageModel,
    bits: np.ndarray,
    sizes: np.ndarray,
    right: Mapping[str, list[bool]],
    speed: tuple[float, float, float, str],
    clients: int,
    price: float | None,
) -> ComparedModel:
    counts = count_parameters(model.config)
    tensors = {t.data_ptr(): t.numel() * t.element_size() for t in model.model.state_dict().values()}
    read, one, many, kernels = speed
    return ComparedModel(
        name=path,
        family=model.config.family,
        parameters=counts.total,
        active_parameters=counts.active_core,
        bits=float(bits.sum() / sizes.sum()),
        scores={task: accuracy(found) for task, found in right.items()},
        prefill=read,
        one=one,
        many=many,
        clients=clients,
        weight_bytes=sum(tensors.values()),
        kernels=kernels,
        dollars=None if price is None else price / (many * 3600) * 1e6,
    )


def _pairs(
    paths: Sequence[str],
    bits: Mapping[str, np.ndarray],
    sizes: np.ndarray,
    right: Mapping[str, Mapping[str, list[bool]]],
) -> list[ModelPair]:
    """Every model against the first, with Holm's correction over all tasks of all pairs."""
    first, *others = paths
    changes = [
        (path, task, accuracy_change(right[first][task], right[path][task]))
        for path in others
        for task in right[first]
    ]
    corrected = holm([change.p for _, _, change in changes])
    found = []
    for path in others:
        mine = [
            (task, change, p)
            for (whose, task, change), p in zip(changes, corrected, strict=True)
            if whose == path
        ]
        moved = seeded_difference((bits[path] - bits[first])[None], sizes)
        found.append(
            ModelPair(
                name=path,
                bits=moved.interval,
                mde80=moved.mde80,
                tasks={task: change for task, change, _ in mine},
                p_holm={task: p for task, _, p in mine},
            )
        )
    return found
