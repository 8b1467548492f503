"""An evaluation from one command: a report with every reply behind it. Run again, it goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from coterie.benchmarks import SUITES, Benchmark, load_benchmark
from coterie.config.errors import ConfigError
from coterie.config.evaluate import EvalConfig
from coterie.config.files import write_text
from coterie.evaluate.detectors.correction import corrected, flags_of, ruling
from coterie.evaluate.harness.benchmark import HarnessBenchmark, harness_benchmarks
from coterie.evaluate.harness.garak_probe import GARAK_PREFIX, GarakBenchmark, garak_benchmarks
from coterie.evaluate.harness.inspect_task import INSPECT_PREFIX, InspectBenchmark, inspect_benchmarks
from coterie.evaluate.harness.tasks import PREFIX
from coterie.evaluate.invariance import is_invariant, measure_invariance
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.remote_subject import RemoteSubject
from coterie.evaluate.scoring import average_of, score_benchmark
from coterie.evaluate.subject import Subject
from coterie.evidence.canonical import canonical
from coterie.infer.model import load
from coterie.recipes.eval_evidence import (
    LockedPlan,
    followed_plan,
    lock_plan,
    note_looks,
    stages_behind,
    training_facts,
    with_splits,
)
from coterie.recipes.eval_findings import examined, reply_options
from coterie.recipes.eval_safety import SafetyInputs
from coterie.release.report_files import REPORT, ReportFiles
from coterie.remote.client import Endpoint, is_url, read_key
from coterie.report.eval_page import write_eval_page
from coterie.results.evaluation import (
    EvalReport,
    ExecProfile,
    InvarianceFacts,
    ItemRecord,
    TaskResult,
)

_log = logging.getLogger("coterie")
PAGE, SAMPLES = "report.html", "samples"
# of this machine, not of the scores
_PRIVATE = (
    "model", "out", "key_file", "name", "model_name", "plan", "ledger", "data_index", "memorised",
    "memorised_control", "before",
)  # fmt: skip

# Tasks of other programs: what their names begin with -> their benchmarks.
_FOREIGN: dict[str, Callable[[str, EvalConfig], Sequence[Benchmark]]] = {
    PREFIX: lambda name, config: harness_benchmarks(
        name, config.form == "chat", config.system, config.allow_code
    ),
    INSPECT_PREFIX: lambda name, config: inspect_benchmarks(
        name, config.settings.get(name), config.allow_code
    ),
    GARAK_PREFIX: lambda name, config: garak_benchmarks(name),
}


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation: the report and the records of each task."""

    report: EvalReport
    records: dict[str, list[ItemRecord]]
    path: Path


def run_evaluation(config: EvalConfig, subject: Subject | None = None) -> Evaluated:
    """Score the tasks and write `report.json`, `report.html` and `samples/TASK.jsonl` into `config.out`.

    `subject`: what is scored; None: `config.model`, opened here. Nothing is scored before all tasks and the
    model are known to be usable. Errors: `CoterieError` subclasses, one line each.
    """
    benchmarks = list(benchmarks_of(config))
    plan = followed_plan(config, benchmarks)
    subject = subject or open_subject(config)
    checkpoint = subject.model.checkpoint if isinstance(subject, LocalSubject) else None
    stages = stages_behind(config, checkpoint)
    safety = SafetyInputs.read(config, benchmarks, subject)
    out = Path(config.out)
    tasks: list[TaskResult] = []
    records: dict[str, list[ItemRecord]] = {}
    for benchmark in benchmarks:
        asked = asked_of(subject, benchmark)
        _log.info("%s: scored on %s", subject.identity.name, benchmark.name)
        done = score_benchmark(
            asked, benchmark, reply_options(config, benchmark), limit=config.limit, seeds=config.seeds,
            folder=out / SAMPLES,
        )  # fmt: skip
        result = examined(config, asked, benchmark, done.result, done.records)
        tasks.append(with_splits(result, benchmark, done.records, stages))
        records[benchmark.name] = done.records
    tasks = corrected(tasks)
    report = EvalReport(
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        subject=subject.identity,
        training=training_facts(checkpoint, stages),
        plan=plan,
        exec_profile=_measured(subject.profile, tasks),
        seeds={"sampling": list(config.seeds)},
        settings=_settings(config),
        tasks=tasks,
        average=average_of(tasks, records),
        safety=safety.section(
            [(one, task, records[task.id]) for one, task in zip(benchmarks, tasks, strict=True)]
        ),
        looks=note_looks(config, subject.identity, tasks, records),
        flags=flags_of(tasks),
        verdict=ruling(tasks),
    )
    write_report(report, records, out)
    return Evaluated(report, records, out)


def evaluate(model: str, *tasks: str, **settings: Any) -> EvalReport:
    """Do what `coterie eval` does, from Python. `settings`: further fields of `EvalConfig`.

    Errors: `CoterieError` subclasses, one line each.
    """
    given = {"model": model, "tasks": tasks} | settings
    return run_evaluation(EvalConfig.from_dict(given, "evaluate")).report


def lock(config: EvalConfig, path: str | Path) -> LockedPlan:
    """Lock the plan of an evaluation before anything is scored. Errors: `CoterieError`, one line each."""
    return lock_plan(config, list(benchmarks_of(config)), Path(path))


def invariance(config: EvalConfig, items: int = 20) -> dict[str, InvarianceFacts]:
    """How far the results of the tasks' first `items` depend on the batch, by task.

    Errors: `ConfigError` for a server, whose batches nobody can choose, and as `measure_invariance`.
    """
    benchmarks = list(benchmarks_of(config))
    subject = open_subject(config)
    if not isinstance(subject, LocalSubject):
        raise ConfigError(
            f"{config.model}: the batches of a server cannot be chosen; give its model's directory"
        )
    return {
        one.name: measure_invariance(subject, one, reply_options(config, one), items) for one in benchmarks
    }


def open_subject(config: EvalConfig) -> Subject:
    """The model of a directory, a hub id or an address, ready to be asked."""
    if is_url(config.model):
        endpoint = Endpoint(config.model, read_key(config.key_file))
        return RemoteSubject(endpoint, config.model_name, config.name)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = load(
        config.model, config.dtype, config.device, adapter=config.adapter, template=config.template,
        quant=config.quant, kernels=config.kernels,
    )  # fmt: skip
    return LocalSubject(model, config.name or config.model, config.exact)


def asked_of(subject: Subject, benchmark: Benchmark) -> Subject:
    """The subject as this benchmark asks it: a task of another program by that program's rules."""
    if isinstance(benchmark, InspectBenchmark):
        from coterie.evaluate.harness.inspect_subject import InspectSubject

        return InspectSubject(subject, benchmark)
    if isinstance(benchmark, GarakBenchmark):
        from coterie.evaluate.harness.garak_subject import GarakSubject

        return GarakSubject(subject, benchmark)
    if not isinstance(benchmark, HarnessBenchmark):
        return subject
    from coterie.evaluate.harness.subject import HarnessSubject  # lm-eval is an extra, and slow to import

    return HarnessSubject(subject, benchmark)


def write_report(report: EvalReport, records: dict[str, list[ItemRecord]], out: Path) -> None:
    """Write `report.json` in its canonical form, and the page."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / REPORT, f"{canonical(report).decode()}\n")
    write_eval_page(report, records, out / PAGE)


def read_report(folder: Path) -> Evaluated:
    """A written report with its records.

    Errors: `ConfigError`, one line, for a file that is missing or broken, and for a score that its records do
    not give.
    """
    files = ReportFiles.read(folder)
    return Evaluated(files.report, files.checked_records(), files.folder)


def benchmarks_of(config: EvalConfig) -> Iterator[Benchmark]:
    """The benchmarks of the tasks. Errors: `ConfigError` for an unknown or unusable one."""
    names = [part for name in config.tasks for part in SUITES.get(name, (name,))]
    for name in names:
        foreign = next((load for prefix, load in _FOREIGN.items() if name.startswith(prefix)), None)
        if foreign is not None:
            yield from foreign(name, config)
            continue
        benchmark = load_benchmark(name, **config.settings.get(name, {}))
        if benchmark.executes and not config.allow_code:
            raise ConfigError(
                f"task {name}: runs programs that the model writes, in the sandbox; allow it with "
                "allow_code=true (coterie compare: --allow-code)"
            )
        yield benchmark


def _measured(profile: ExecProfile, tasks: Sequence[TaskResult]) -> ExecProfile:
    """The profile with whether results were the same in every batch, where that was measured."""
    found = [task.invariance for task in tasks if task.invariance is not None]
    return profile.model_copy(update={"batch_invariant": all(map(is_invariant, found)) if found else None})


def _settings(config: EvalConfig) -> dict[str, Any]:
    """The settings as a report holds them, in which numbers with a fraction are text."""
    kept = {key: value for key, value in config.to_dict().items() if key not in _PRIVATE}
    found: dict[str, Any] = json.loads(canonical(kept))
    return found
