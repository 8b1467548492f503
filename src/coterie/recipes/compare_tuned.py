"""What the same tuning gains each of several models: the same examples in each step, and as many steps."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from coterie.config import ConfigError, DataError, Settings
from coterie.config.errors import StoppedError
from coterie.config.files import read_json, write_json
from coterie.config.tune import TuneConfig
from coterie.data.examples import read_all
from coterie.data.formats import Example
from coterie.infer.model import load
from coterie.nn.lora import LoRAExpertLinear
from coterie.recipes.compare_sides import ComparedSide, Key, LocalSide, answer_bytes, key_of
from coterie.recipes.tune import run_tune
from coterie.results.compare_tuned import TunedComparison, TunedModel, TunedPair
from coterie.results.paired import PairedDifference
from coterie.results.tuning import TuningRecord
from coterie.stats.paired import compare_bits, corrected
from coterie.train.callbacks import STOPPED

_log = logging.getLogger("coterie")
_EPOCHS = 3
_BATCH = 8  # examples in a step at most


class TunedPlan(Settings):
    """What a comparison tunes, kept as `plan.json`: finished tunings are used only by the same plan.

    `data`: digest of the examples. `models`: by name, the digest of the weights.
    """

    data: str
    batch: int
    steps: int
    models: dict[str, str | None]


def compare_tuned(
    sides: Sequence[ComparedSide],
    sources: Sequence[str],
    examples: Sequence[Example],
    folder: Path,
    steps: int | None = None,
) -> TunedComparison:
    """Tune every model that is here on `sources`, and measure each on `examples`, which it has read.

    Each step sees the same examples, one in a row, whatever the tokenizer. `steps`: of the optimiser (None:
    three passes). Writes a run of `coterie tune` for each model below `folder`; run again, it goes on.
    Errors: `CoterieError` subclasses, one line each; `StoppedError` for a run that was stopped.
    """
    learnt = read_all(sources).examples
    apart = unseen(learnt, examples)
    batch = max(1, min(_BATCH, len(learnt) // 8))
    here = [side for side in sides if isinstance(side, LocalSide)]
    plan = TunedPlan(
        data=_digest(learnt), batch=batch, steps=steps or max(1, round(_EPOCHS * len(learnt) / batch)),
        models={side.name: side.subject.identity.weights_tensors for side in here},
    )  # fmt: skip
    _take_up(plan, folder)
    keys = [key_of(example) for example in apart]
    sizes = np.array([answer_bytes(example) for example in apart], dtype=np.float64)
    models, after = [], {}
    for place, side in enumerate(here, 1):
        made, bits = _tuned(side, sources, plan, folder / str(place), keys, sizes)
        models.append(made)
        after[side.name] = bits
    return TunedComparison(
        examples=len(learnt),
        batch=batch,
        steps=plan.steps,
        shared=len(examples) - len(apart),
        measured=len(apart),
        **_corrected(models, after, sizes),
        not_tuned={side.name: "its weights are not here" for side in sides if side not in here},
    )


def unseen(learnt: Sequence[Example], examples: Sequence[Example]) -> list[Example]:
    """The examples that are not among those to be learnt. Errors: `DataError` for fewer than two."""
    known = {_content(example) for example in learnt}
    apart = [example for example in examples if _content(example) not in known]
    if len(apart) < 2:
        raise DataError(
            "compare: --tune holds the examples of --data, so nothing can be measured on them; give others"
        )
    return apart


def _corrected(models: list[TunedModel], after: dict[str, np.ndarray], sizes: np.ndarray) -> dict[str, Any]:
    """Gains and differences after tuning, with Holm's correction over all of them."""
    found: dict[tuple[str, str], PairedDifference] = {(one.name, ""): one.gain for one in models}
    for first, second in combinations(after, 2):
        found[first, second] = compare_bits(after[first], after[second], sizes)
    found = corrected(found)
    return {
        "models": [one.model_copy(update={"gain": found[one.name, ""]}) for one in models],
        "pairs": [
            TunedPair(first=first, second=second, after=found[first, second])
            for first, second in combinations(after, 2)
        ],
    }


def _take_up(plan: TunedPlan, folder: Path) -> None:
    """Errors: `ConfigError` for a folder with tunings of something else."""
    path = folder / "plan.json"
    if path.is_file() and TunedPlan.from_dict(read_json(path), str(path)) != plan:
        raise ConfigError(
            f"{folder}: holds tunings of other models, data or steps; choose another --out, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, plan.to_dict())


def _tuned(
    side: LocalSide,
    sources: Sequence[str],
    plan: TunedPlan,
    out: Path,
    keys: Sequence[Key],
    sizes: np.ndarray,
) -> tuple[TunedModel, np.ndarray]:
    """One model tuned, or taken as an earlier run finished it; and bits of the answers afterwards."""
    record = _finished(out)
    if record is None:
        config = TuneConfig.from_dict(
            {
                "model": side.name, "data": list(sources), "out": str(out), "eval": 0.0, "packing": False,
                "batch_rows": plan.batch, "steps": plan.steps,
            },
            "compare",
        )  # fmt: skip
        _log.info("tuning %s", side.name)
        result = run_tune(config)
        if result.path is None or result.report is None:
            raise StoppedError(
                f"{out}: tuning was stopped; run the same command again to go on", STOPPED[result.reason]
            )
        record = result.report
    assert record.path is not None
    tuned = load(side.name, adapter=record.path)
    bits = side.bits_of(tuned, keys)
    written = Path(record.path)
    experts = experts_trained(tuned.model)
    made = TunedModel(
        name=side.name,
        gain=compare_bits(side.bits(keys), bits, sizes),
        steps=plan.steps,
        tokens=record.counts["tokens trained on, over all steps"],
        seconds=record.seconds or 0.0,
        learning_rate=float(record.config["optimiser"]["lr"]),
        trainable=sum(group.trainable for group in record.plan),
        experts=None if experts is None else experts[1],
        experts_trained=None if experts is None else experts[0],
        forgot=None if record.retention is None else record.retention.change.value,
        path=record.path,
        bytes=sum(file.stat().st_size for file in written.rglob("*") if file.is_file()),
    )
    return made, bits


def _finished(out: Path) -> TuningRecord | None:
    """The report of a tuning that has ended with a result; None for any other."""
    path = out / "report.json"
    if not path.is_file():
        return None
    record = TuningRecord.from_dict(read_json(path), str(path))
    return record if record.failed is None and record.path and Path(record.path).is_dir() else None


def experts_trained(model: Any) -> tuple[int, int] | None:
    """How many experts of an adapted mixture are not as they were, and of how many; None without factors.

    An expert is trained where one of its factors B, which begin at zero, is not zero.
    """
    moved: dict[str, np.ndarray] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRAExpertLinear):
            layer = name.rpartition(".")[0]
            here = module.lora_B.detach().flatten(1).ne(0).any(1).cpu().numpy()
            moved[layer] = moved.get(layer, False) | here
    return (int(sum(map(np.sum, moved.values()))), sum(map(len, moved.values()))) if moved else None


def _content(example: Example) -> str:
    """What an example says, wherever it stands."""
    parts = [getattr(example, field.name) for field in fields(example) if field.name != "origin"]
    return repr(parts)


def _digest(examples: Sequence[Example]) -> str:
    return hashlib.sha256("\n".join(map(_content, examples)).encode()).hexdigest()
