"""The stages of a quickstart: what it decides, how it takes up a stopped run, how it trains, what it asks."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.config import ConfigError, DataError, Settings, TrainingError
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared
from coterie.data.heldout import HeldoutDocument
from coterie.primer import qa_probes
from coterie.recipes.heldout import evaluation_documents
from coterie.recipes.quickstart.lr_sweep import Sweep
from coterie.recipes.quickstart.twins import ROW_LENGTH, VOCAB_SIZE

_log = logging.getLogger("coterie")


TWINS = ("moe", "dense")
BATCH_ROWS = 8
NUM_EVALUATIONS = 12
MIN_STEPS = 10
BYTES_PER_MINUTE = 2_000_000
HELDOUT_TOKENS = 120_000
_PROBES_PER_SLICE = 50
_PROMPT_CHARACTERS = 120

Probes = dict[str, list[tuple[str, str]]]


class Plan(Settings):
    """What a quickstart was asked for and has decided; kept as `plan.json` so that a stopped run goes on."""

    minutes: float
    data: str | None
    seed: int
    threads: int | None
    sweeps: dict[str, Sweep] | None = None
    tokens: int | None = None
    seconds_before: float = 0.0

    def asked(self) -> dict[str, Any]:
        """The part that a user gives."""
        return {name: getattr(self, name) for name in ("minutes", "data", "seed", "threads")}


def take_up(plan: Plan, out: Path) -> Plan:
    """The plan of a stopped run in `out` if it was asked for the same; a finished run makes room for a new
    one.

    Errors: `ConfigError` when `out` holds a stopped run that was asked for something else.
    """
    path = out / "plan.json"
    if not path.is_file():
        if any((out / name).exists() for name in TWINS):
            raise ConfigError(
                f"{out}: holds trained models but no plan.json; choose another --out, or remove it"
            )
        return plan
    before = Plan.from_dict(json.loads(path.read_text(encoding="utf-8")), str(path))
    if (out / "results.json").is_file():
        _log.info(f"{out} holds a finished run; starting anew (prepared text is used again)")
        for name in (*TWINS, "tuned"):
            shutil.rmtree(out / name, ignore_errors=True)
        for file in ("results.json", "report.html", "plan.json"):
            (out / file).unlink(missing_ok=True)
        return plan
    if before.asked() != plan.asked():
        raise ConfigError(
            f"{out}: holds a stopped run with other settings; choose another --out, or remove it"
        )
    _log.info(f"going on with the run in {out}")
    return before


def twin_config(model: Mapping[str, Any], plan: Plan, out: Path, data_dir: Path) -> TrainConfig:
    """The settings of one of the twins; budget and learning rate are filled in later."""
    return TrainConfig.from_dict(
        {
            "model": dict(model),
            "data": {
                "sources": [plan.data or "primer"],
                "vocab_size": VOCAB_SIZE,
                "row_length": ROW_LENGTH,
                "seed": plan.seed,
                # More than the time allows to train on would only be read, not used.
                "max_bytes": int(max(1.0, plan.minutes) * BYTES_PER_MINUTE) if plan.data else None,
            },
            "steps": 1,
            "batch_rows": BATCH_ROWS,
            # The same for both; the factors for experts and routers find nothing to act on in the dense twin.
            "optimiser": {"expert_lr": 2.0, "router_lr": 0.2},
            "schedule": {"kind": "wsd", "warmup_fraction": 0.03, "decay_fraction": 0.3},
            "seed": plan.seed,
            "threads": plan.threads,
            "keep": 1,
            "out": str(out),
            "data_dir": str(data_dir),
        },
        "quickstart",
    )


def with_budget(config: TrainConfig, plan: Plan, name: str) -> TrainConfig:
    """The settings of the real training: the plan's tokens and the twin's own best learning rate."""
    assert plan.sweeps is not None and plan.tokens is not None
    steps = max(1, plan.tokens // (config.batch_rows * config.data.row_length))
    return config.model_copy(
        update={
            "steps": steps,
            "eval_every": max(1, steps // NUM_EVALUATIONS),
            "save_every": max(1, steps // 4),
            "optimiser": config.optimiser.model_copy(update={"lr": plan.sweeps[name].best}),
        }
    )


def check_budget(tokens: int, plan: Plan) -> None:
    """`TrainingError` when the time is too short for a comparison that means anything."""
    if tokens < MIN_STEPS * BATCH_ROWS * ROW_LENGTH:
        raise TrainingError(
            f"only {max(tokens, 0):,} tokens fit into what is left of {plan.minutes:g} minutes; give "
            "more --minutes"
        )


def train_twin(config: TrainConfig, path: Path) -> None:
    """Train in a process of its own, by the command a user would type, so that its memory is measured alone.

    Errors: `TrainingError` when it failed or was stopped; running again goes on from its last checkpoint.
    """
    model = Path(config.out) / "model"
    if model.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    config.to_yaml(path)
    _log.info(f"training: coterie train {path}")
    command = [sys.executable, "-m", "coterie.cli.main", "train", str(path)]
    # In a session of its own, so that Ctrl-C reaches it once, from here: the first one saves, a second one
    # does not.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        try:
            process.wait()
        except KeyboardInterrupt:
            process.kill()
        raise
    if code != 0 or not model.is_dir():
        raise TrainingError(f"{path}: training ended before its budget; run the same command again to go on")


def check_enough(prepared: Prepared, config: TrainConfig) -> None:
    """`DataError` when the text is too little to train on and compare with."""
    needed = config.batch_rows * config.data.row_length
    if prepared.train.num_tokens < needed:
        raise DataError(
            f"the text has {prepared.train.num_tokens:,} training tokens; one step takes {needed:,}: "
            "give more text"
        )


def questions(prepared: Prepared, plan: Plan) -> tuple[list[HeldoutDocument], Probes, list[tuple[str, str]]]:
    """Held-out documents to score, questions with one answer (embedded corpus only), prompts to continue."""
    documents = evaluation_documents(prepared, HELDOUT_TOKENS, "final")
    probes: Probes = {}
    if plan.data is None:
        names = ("arithmetic", "functions", "stories")
        probes = {name: list(qa_probes(name, plan.seed, _PROBES_PER_SLICE)) for name in names}
    prompts = [(name, pairs[0][0]) for name, pairs in probes.items()]
    seen = {name for name, _ in prompts}
    for document in documents:
        if document.slice not in seen and len(prompts) < 8:
            seen.add(document.slice)
            text = prepared.tokenizer.decode(document.ids[1:].tolist())
            prompts.append((document.slice, text[:_PROMPT_CHARACTERS]))
    return documents, probes, prompts


def data_summary(prepared: Prepared, plan: Plan, documents: list[HeldoutDocument]) -> dict[str, Any]:
    """`DataSummary` of the report."""
    total = prepared.card.total("train")
    return {
        "name": plan.data or "primer",
        "documents": total.documents,
        "bytes": total.num_bytes,
        "tokens": total.tokens,
        "vocab_size": prepared.card.vocab_size,
        "held_out_documents": len(documents),
        "held_out_bytes": sum(document.num_bytes for document in documents),
        "dropped": prepared.card.dropped,
    }
