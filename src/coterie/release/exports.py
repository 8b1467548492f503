"""A release's scores in the forms of other tools: Every Eval Ever, the hub's `.eval_results`, in-toto.

Each form carries the flags next to the scores. What a form cannot hold stays in the release.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from coterie.benchmarks import BenchmarkItem, load_benchmark
from coterie.config import ConfigError, CoterieError, suggest
from coterie.config.files import file_sha256
from coterie.evidence.claims import append_claim
from coterie.evidence.keys import SigningKey
from coterie.evidence.statements import TEST_RESULT, sign_statement
from coterie.release.card import headline, task_flags
from coterie.release.layout import TENSORS, new_directory
from coterie.release.report_files import REPORT, ReportFiles
from coterie.results.evaluation import EvalReport, ItemRecord, TaskResult

EEE_VERSION = "0.3.0"


@dataclass(frozen=True)
class ExportRequest:
    """`name`: of the model, `owner/name`. `key`: signs an in-toto statement. `datasets`: task -> hub id."""

    evidence: ReportFiles
    name: str
    key: SigningKey | None = None
    datasets: Mapping[str, str] = field(default_factory=dict)


def export_release(
    release: Path,
    to: str,
    out: Path,
    key: Path | None = None,
    datasets: Mapping[str, str] | None = None,
    name: str | None = None,
) -> list[str]:
    """Write the new directory `out`; the names of its files.

    `release`: of a release or an evaluation. `key`: for in-toto, the private key. `datasets`: for the hub,
    task -> `owner/name:task_id` of a benchmark there. `name`: of the model, `owner/name`.
    Errors: `CoterieError`, one line.
    """
    if to not in FORMS:
        raise ConfigError(f"--to {to}: is not a form{suggest(to, FORMS)}; choose {', '.join(FORMS)}")
    evidence = ReportFiles.read(release)
    for problem in evidence.problems():
        raise CoterieError(f"{release}: was not exported; {problem}")
    signer = None if key is None else SigningKey.read(key)
    asked = ExportRequest(evidence, _hub_name(name or evidence.report.subject.name), signer, datasets or {})
    with new_directory(out) as folder:
        FORMS[to](asked, folder)
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return files


def _every_eval_ever(asked: ExportRequest, folder: Path) -> None:
    """`data/coterie/OWNER/NAME/UUID.json` and the records as `UUID_samples.jsonl`."""
    evidence, report = asked.evidence, asked.evidence.report
    owner, _, name = asked.name.partition("/")
    mark = uuid.UUID(hex=evidence.digest.removeprefix("sha256:")[:32], version=4)
    place = folder / "data" / "coterie" / owner / name
    place.mkdir(parents=True)
    samples = place / f"{mark}_samples.jsonl"
    evaluation = f"coterie/{asked.name}/{_epoch(report.created)}"
    rows = [
        row
        for task in report.tasks
        for row in _instances(task, evidence.records(task), evaluation, asked.name)
    ]
    samples.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    data = {
        "schema_version": EEE_VERSION,
        "evaluation_id": evaluation,
        "evaluation_timestamp": report.created,
        "retrieved_timestamp": _epoch(report.created),
        "source_metadata": {
            "source_name": "coterie",
            "source_type": "evaluation_run",
            "source_organization_name": owner,
            "evaluator_relationship": "first_party" if report.assurance == "self_attested" else "third_party",
        },
        "eval_library": {"name": "coterie", "version": report.exec_profile.version},
        "model_info": _model_info(report, asked.name),
        "evaluation_results": [_aggregate(report, task) for task in report.tasks],
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": samples.relative_to(folder).as_posix(),
            "hash_algorithm": "sha256",
            "checksum": file_sha256(samples),
            "total_rows": len(rows),
        },
    }
    (place / f"{mark}.json").write_text(
        json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _model_info(report: EvalReport, name: str) -> dict[str, Any]:
    subject, profile = report.subject, report.exec_profile
    details = {
        "deployment_type": "self_deployed",
        "model_availability": "open_weights",
        "weights_tensors": subject.weights_tensors,
        "weights_files": subject.weights_files,
        "tokenizer": subject.tokenizer,
        "chat_template": subject.chat_template,
        "dtype": profile.dtype,
    }
    return {
        "name": name,
        "id": name,
        "developer": name.partition("/")[0],
        "inference_engine": {"name": profile.engine, "version": profile.version},
        "additional_details": {key: value for key, value in details.items() if value},
    }


def _aggregate(report: EvalReport, task: TaskResult) -> dict[str, Any]:
    first, flags = headline(task), task_flags(report, task)
    low, high = first.low, first.high
    uncertainty: dict[str, Any] = {"num_samples": task.n}
    if low is not None and high is not None:
        limits = {"lower": low, "upper": high, "confidence_level": 0.95, "method": task.score.method}
        uncertainty["confidence_interval"] = limits
    bounds = {"score_type": "continuous", "min_score": 0.0, "max_score": 1.0}
    inside = 0 <= first.value <= 1 and not task.score.lower_is_better
    return {
        "evaluation_result_id": task.id,
        "evaluation_name": task.id,
        "source_data": {
            "dataset_name": task.id,
            "source_type": "other",
            "additional_details": {"version": task.version, "items": task.items},
        },
        "metric_config": {
            "metric_id": task.score.metric,
            "metric_name": task.score.metric,
            "lower_is_better": task.score.lower_is_better,
            **(bounds if inside else {}),
        },
        "score_details": {
            "score": first.value,
            "details": {
                "over": first.of,
                "all_items": repr(task.score.value),
                "verdict": report.verdict,
                "flags": ", ".join(flags) or "none",
                "merkle_root": task.samples.merkle_root,
            },
            "uncertainty": uncertainty,
        },
        "generation_config": {"generation_args": _arguments(task)},
    }


def _arguments(task: TaskResult) -> dict[str, Any]:
    given: dict[str, Any] = {"temperature": task.prompt.temperature, "prompt_template": task.prompt.template}
    return given | ({"max_tokens": task.prompt.max_tokens} if task.prompt.max_tokens else {})


def _instances(
    task: TaskResult, records: Sequence[ItemRecord], evaluation: str, name: str
) -> Iterator[dict[str, Any]]:
    """Records as instances. The text of an item is known where the benchmark can be made again here."""
    items = _items(task)
    for record in records:
        item = items.get(record.digest)
        known = "" if item is None or item.answer is None else _text(item.answer)
        yield {
            "schema_version": EEE_VERSION,
            "evaluation_id": evaluation,
            "model_id": name,
            "evaluation_name": task.id,
            "evaluation_result_id": task.id,
            "sample_id": record.id if record.seed is None else f"{record.id} seed {record.seed}",
            "sample_hash": record.digest.removeprefix("sha256:"),
            "interaction_type": "single_turn",
            "input": {
                "raw": item.question if item is not None else f"item {record.digest} of {task.id}",
                "reference": [known] if known else [],
                "choices": list(item.choices) if item is not None and item.choices else None,
            },
            "output": {"raw": [record.reply]},
            "messages": None,
            "answer_attribution": [
                {
                    "turn_idx": 0,
                    "source": "output.raw",
                    "extracted_value": record.extracted or "",
                    "extraction_method": task.prompt.extractor,
                    "is_terminal": True,
                }
            ],
            "evaluation": {"score": record.score, "is_correct": record.right},
            "error": record.why or "the checker did not work" if record.failed else None,
        }


def _items(task: TaskResult) -> dict[str, BenchmarkItem]:
    try:
        return {item.digest: item for item in load_benchmark(task.id).items()}
    except CoterieError:
        return {}


def _eval_results(asked: ExportRequest, folder: Path) -> None:
    """`.eval_results/TASK.yaml` for the tasks that are benchmarks of the hub."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    report = asked.evidence.report
    chosen = {name: id for name, id in asked.datasets.items() if report.task(name) is not None}
    missing = [name for name in asked.datasets if name not in chosen]
    if missing or not chosen:
        names = ", ".join(task.id for task in report.tasks)
        what = (
            f"the report has no task {missing[0]}" if missing else "name the benchmark of a task on the hub"
        )
        raise ConfigError(f"--dataset TASK=owner/name:task_id: {what}; its tasks are {names}")
    target = folder / ".eval_results"
    target.mkdir()
    for name, id in chosen.items():
        task = report.task(name)
        assert task is not None
        repo, _, part = id.partition(":")
        first, flags = headline(task), task_flags(report, task)
        said = ", ".join((f"over {first.of}", *(f"flag {flag}" for flag in flags)))
        entry = EvalResultEntry(
            dataset_id=repo,
            task_id=part or "default",
            value=first.value,
            date=report.created,
            notes=f"{said}; report {asked.evidence.digest}",
        )
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
        (target / f"{Path(task.samples.path).stem}.yaml").write_text(text, encoding="utf-8")


def _in_toto(asked: ExportRequest, folder: Path) -> None:
    """A signed in-toto test-result statement, `test-result.intoto.jsonl`."""
    if asked.key is None:
        raise ConfigError("--to in-toto: give --key with the private key that signs the statement")
    report = asked.evidence.report
    if report.subject.weights_tensors is None:
        raise CoterieError(f"{asked.evidence.path}: does not say which weights were scored")
    flagged = [task.id for task in report.tasks if task_flags(report, task)]
    refused = report.verdict == "REFUSE"
    configuration = [_resource(task.id, task.items) for task in report.tasks]
    configuration += [_resource("plan", report.plan.digest)] if report.plan is not None else []
    predicate = {
        "result": {"PASS": "PASSED", "WARN": "WARNED", "REFUSE": "FAILED"}[report.verdict],
        "configuration": configuration,
        "passedTests": [task.id for task in report.tasks if task.id not in flagged],
        "warnedTests": [] if refused else flagged,
        "failedTests": flagged if refused else [],
    }
    subjects = {TENSORS: report.subject.weights_tensors, REPORT: asked.evidence.digest}
    append_claim(
        folder / "test-result.intoto.jsonl", sign_statement(asked.key, subjects, TEST_RESULT, predicate)
    )


def _resource(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}


FORMS: dict[str, Callable[[ExportRequest, Path], None]] = {
    "eee": _every_eval_ever,
    "hf": _eval_results,
    "in-toto": _in_toto,
}


def _hub_name(name: str) -> str:
    """`owner/name` of a model's name, which may be a path."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return f"local/{parts[-1] if parts else 'model'}" if len(parts) != 2 else "/".join(parts)


def _text(answer: Any) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, sort_keys=True)


def _epoch(time: str) -> str:
    try:
        return str(datetime.fromisoformat(time).timestamp())
    except ValueError:
        return time
