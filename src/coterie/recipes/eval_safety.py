"""The safety section of an evaluation: its shares, text known by heart, and what tuning changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coterie.benchmarks.item import Benchmark
from coterie.benchmarks.safety.base import SafetyBenchmark
from coterie.config.errors import ConfigError
from coterie.config.evaluate import EvalConfig
from coterie.data.heldout import read_domains
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.memorised import memorised
from coterie.evaluate.safety import check_same_items, safety_changes, safety_facts
from coterie.evaluate.subject import Subject
from coterie.release.report_files import ReportFiles
from coterie.results.evaluation import ItemRecord, TaskResult
from coterie.results.safety import MemorisedFacts, SafetyFacts

_log = logging.getLogger("coterie")
_TOKENS = 50_000  # of text that is looked for in what the model says


@dataclass(frozen=True)
class SafetyInputs:
    """What the section needs besides the scores, read and measured before anything is scored.

    `known`: text known by heart. `base`: the name of the model before tuning. `before`: its records by task.
    """

    known: MemorisedFacts | None = None
    base: str = ""
    before: Mapping[str, Sequence[ItemRecord]] | None = None

    @staticmethod
    def read(config: EvalConfig, benchmarks: Sequence[Benchmark], subject: Subject) -> SafetyInputs:
        """Errors: `CoterieError` subclasses, one line, for what cannot be read or does not fit the rest."""
        known = None if config.memorised is None else _known(config, subject, config.memorised)
        if config.before is None:
            return SafetyInputs(known)
        files = ReportFiles.read(Path(config.before))
        kept = files.checked_records()
        shared = [one for one in benchmarks if isinstance(one, SafetyBenchmark) and one.name in kept]
        before = {one.name: kept[one.name] for one in shared}
        for one in shared:
            asked = {item.id: item.digest for item in one.items()[: config.limit]}
            check_same_items(one.name, {record.id: record.digest for record in kept[one.name]}, asked)
        if not before:
            raise ConfigError(
                f"before: {files.path} and this evaluation share no safety task; score both on 'safety'"
            )
        return SafetyInputs(known, files.report.subject.name, before)

    def section(
        self, scored: Sequence[tuple[Benchmark, TaskResult, Sequence[ItemRecord]]]
    ) -> SafetyFacts | None:
        """The section; None where there is nothing to say."""
        facts = safety_facts(scored, self.known)
        if facts is None or self.before is None:
            return facts
        battery = [benchmark for benchmark, _, _ in scored if isinstance(benchmark, SafetyBenchmark)]
        after = {task.id: records for _, task, records in scored}
        changes = safety_changes(battery, self.before, after)
        return facts.model_copy(update={"base": self.base, "changes": changes})


def _known(config: EvalConfig, subject: Subject, source: str) -> MemorisedFacts:
    if not isinstance(subject, LocalSubject):
        raise ConfigError(f"memorised: needs a model in this process, and {config.model} is a server")
    tokenizer, name = subject.model.tokenizer, subject.identity.name
    trained = read_domains([source], tokenizer, _TOKENS, name)
    others = config.memorised_control
    control = [] if others is None else read_domains([others], tokenizer, _TOKENS, name)
    _log.info("%s: continues %d texts of its training and %d others", name, len(trained), len(control))
    return memorised(subject.model, trained, control)
