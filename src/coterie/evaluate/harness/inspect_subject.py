"""A subject that inspect_ai asks: it runs a task's solver and scorer on chosen samples."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from typing import Any

from inspect_ai import eval as run_inspect

from coterie.benchmarks.item import BenchmarkItem, ItemReply
from coterie.config import ConfigError
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.harness.inspect_model import AT_ONCE, inspect_model, no_grader
from coterie.evaluate.harness.inspect_task import INSPECT, InspectBenchmark
from coterie.evaluate.harness.judged import JudgedReply, JudgingSubject
from coterie.evaluate.harness.trouble import first_line, one_line
from coterie.evaluate.subject import Environment, Subject, no_tools


class InspectSubject(JudgingSubject):
    """`inner`, asked by inspect_ai. Its log is read and thrown away; a sample that fails has no score."""

    def __init__(self, inner: Subject, benchmark: InspectBenchmark) -> None:
        super().__init__(inner, benchmark)
        self.benchmark = benchmark

    def replies(
        self, items: Sequence[BenchmarkItem], options: ReplyOptions, environment: Environment = no_tools
    ) -> list[ItemReply]:
        """See `Subject`. Errors: `ConfigError`, one line, where inspect_ai does not run the task."""
        task = self.benchmark.fresh()
        ids = {str(sample.id): sample.id for sample in task.dataset}
        with tempfile.TemporaryDirectory() as folder, one_line(self.name, INSPECT):
            (log,) = run_inspect(
                task,
                model=inspect_model(self.inner, options),
                model_roles={"grader": no_grader()},
                sample_id=[ids[item.id] for item in items],
                epochs=1,
                fail_on_error=False,
                max_samples=AT_ONCE,
                display="none",
                log_dir=folder,
                log_level="error",
                log_samples=True,
            )
            done = {str(sample.id): sample for sample in log.samples or []}  # read from the folder only now
        if log.status != "success" and not done:
            raise ConfigError(f"{self.name}: inspect_ai stopped ({first_line(_message(log.error))})")
        return [self._reply(done.get(item.id)) for item in items]

    def _reply(self, sample: Any) -> ItemReply:
        if sample is None:
            return JudgedReply(failed="inspect_ai did not run it")
        if sample.error is not None:
            return JudgedReply(failed=first_line(_message(sample.error)))
        return JudgedReply(
            text=sample.output.completion,
            truncated=bool(sample.output.choices) and sample.output.stop_reason == "max_tokens",
            tokens=sum(usage.output_tokens for usage in sample.model_usage.values()),
            verdict=self.benchmark.verdict(sample),
        )


def _message(error: Any) -> str:
    """The words of an error as inspect_ai keeps it, `ConfigError('...')`, without what stands around them."""
    said = str(getattr(error, "message", "") or "no reason given")
    found = re.fullmatch(r"ConfigError\((['\"])(.*)\1\)+", said)
    return found.group(2) if found else said
