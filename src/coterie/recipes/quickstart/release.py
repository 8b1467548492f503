"""The quickstart's last chapter: its mixture of experts is evaluated, released and checked.

Then one expert of a copy is changed, and the check is asked again.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from coterie.config.errors import CoterieError
from coterie.config.evaluate import EvalConfig
from coterie.config.files import write_text
from coterie.evidence.keys import PublicKey, SigningKey
from coterie.recipes.eval_evidence import lock_plan
from coterie.recipes.evaluate import benchmarks_of, run_evaluation
from coterie.recipes.verify_report import replayed_items
from coterie.release.check import check_release
from coterie.release.publish import PublishRequest, publish, sign_report
from coterie.results.evaluation import EvalReport
from coterie.results.quickstart import ReleasedScore, ReleaseResults

_log = logging.getLogger("coterie")

NAME = "quickstart"
TASK, LEVEL = "parity", 5
ITEMS = 16  # of each benchmark; a quarter of them is run again before the release is signed
_EVALUATION: Mapping[str, Any] = {
    "tasks": [TASK, "safety-refusals"],
    "settings": {TASK: {"levels": LEVEL, "n": ITEMS, "instruction": False}},
    "limit": ITEMS,
    "max_tokens": 8,
    "reasoning_tokens": 24,
    "turns": 1,
    "band": 0,
    "invariance": 2,
}
_EXPERT = 3
_LICENCE = (
    "Apache License\nVersion 2.0, January 2004\n\nIts text: https://www.apache.org/licenses/LICENSE-2.0\n"
)


def release_chapter(out: Path, model: Path, threads: int | None) -> ReleaseResults:
    """Release `model` into `out/release` with a report and a key that are made in `out/evidence`.

    What goes wrong here is a result too, because the comparison is worth more than its release.
    """
    started = time.monotonic()
    evidence, released = out / "evidence", out / "release"
    for folder in (evidence, released):
        shutil.rmtree(folder, ignore_errors=True)
    found = ReleaseResults(model=str(model), path=str(released))
    try:
        key = SigningKey.new()
        evidence.mkdir(parents=True)
        key.write(evidence / "run.key")
        report = _evaluated(model, evidence, threads)
        found = found.model_copy(update=_reported(report))
        waived, reasons = _released(model, report, evidence, released)
        found = found.model_copy(update={"waived": waived, "refused": reasons})
        if not reasons:
            found = found.model_copy(update=_checked(released, key.public))
    except (CoterieError, OSError) as error:
        _log.warning("%s", error)
        found = found.model_copy(update={"refused": [*found.refused, str(error)]})
    return found.model_copy(update={"seconds": time.monotonic() - started})


def _evaluated(model: Path, evidence: Path, threads: int | None) -> EvalReport:
    """A report that follows a plan, with its looks in a ledger."""
    config = EvalConfig.from_dict(
        {
            "model": str(model),
            "out": str(evidence / "report"),
            "plan": str(evidence / "plan.json"),
            "ledger": str(evidence / "ledger.jsonl"),
            "name": NAME,
            "threads": threads,
        }
        | dict(_EVALUATION),
        "quickstart",
    )
    lock_plan(config, list(benchmarks_of(config)), evidence / "plan.json")
    _log.info(f"evaluation: coterie eval {model} {' '.join(config.tasks)} limit={ITEMS} out={config.out}")
    return run_evaluation(config).report


def _released(model: Path, report: EvalReport, evidence: Path, out: Path) -> tuple[list[str], list[str]]:
    """Sign and publish: the flags that had to be waived, and the reasons of a refusal."""
    key = evidence / "run.key"
    sign_report(evidence / "report", key)
    write_text(evidence / "LICENSE", _licence())
    waive = {
        f"index:{stage.name}": "the run kept no index of this stage"
        for stage in report.training.stages
        if stage.index is None
    }
    asked = PublishRequest(
        model=str(model),
        report=str(evidence / "report"),
        key=str(key),
        out=str(out),
        name=NAME,
        licence=str(evidence / "LICENSE"),
        waive=waive,
        ledger=str(evidence / "ledger.jsonl"),
        items=ITEMS // 4,
    )
    _log.info(f"release: coterie release {model} --report {asked.report} --key {key} -o {out}")
    return list(waive), list(map(str, publish(asked, replayed_items).refusals))


def _reported(report: EvalReport) -> dict[str, Any]:
    scores = [
        ReleasedScore(
            task=task.id,
            metric=task.score.metric,
            items=task.n,
            value=task.score.value,
            low=task.score.low,
            high=task.score.high,
            flags=[flag.partition(":")[2] for flag in report.flags if flag.partition(":")[0] == task.id],
        )
        for task in report.tasks
    ]
    subject = report.subject
    digests = {
        "weights": subject.weights_tensors,
        "weight files": subject.weights_files,
        "tokenizer": subject.tokenizer,
        "chat template": subject.chat_template,
        "plan": None if report.plan is None else report.plan.digest,
    }
    return {
        "scores": scores,
        "verdict": report.verdict,
        "digests": {name: digest for name, digest in digests.items() if digest is not None},
    }


def _checked(released: Path, key: PublicKey) -> dict[str, Any]:
    """What a receiver finds, and what the check says of a copy with one changed expert."""
    found = check_release(released, [key])
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / NAME
        shutil.copytree(released, copy)
        changed = change_expert(copy)
        refusals = check_release(copy, [key]).refusals
    return {
        "reasons": list(map(str, found.refusals)),
        "notes": found.notes,
        "changed": changed,
        "refusals": [str(one).replace(f"{copy}/", "") for one in refusals],
    }


def change_expert(directory: Path, expert: int = _EXPERT) -> str:
    """Turn one matrix of an expert upside down, in the files; returns the tensor's name.

    Errors: `CoterieError` for a model without that expert.
    """
    for file in sorted(directory.glob("*.safetensors"), reverse=True):
        tensors = load_file(file)
        names = [name for name in tensors if re.search(rf"\.experts\.{expert}\..*weight$", name)]
        if names:
            name = sorted(names)[-1]
            tensors[name] = tensors[name].flip(0).contiguous()
            save_file(tensors, file, {"format": "pt"})
            return name
    raise CoterieError(f"{directory}: has no expert {expert} that could be changed")


def _licence() -> str:
    """The text of this package's licence; where its files are not at hand, its name and address."""
    for file in importlib.metadata.files("coterie") or ():
        if file.name == "LICENSE" and Path(str(file.locate())).is_file():
            return file.read_text(encoding="utf-8")
    return _LICENCE
