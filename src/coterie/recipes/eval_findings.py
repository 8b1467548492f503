"""What the detectors find about one scored task, as far as the settings ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from coterie.benchmarks import Benchmark
from coterie.config.errors import CoterieError
from coterie.config.evaluate import EvalConfig
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.detectors.canary import canary_finding
from coterie.evaluate.detectors.extraction import extraction_finding, failed_finding
from coterie.evaluate.detectors.familiarity import familiarity_finding
from coterie.evaluate.detectors.fingerprint import disguise_finding
from coterie.evaluate.detectors.item_order import order_finding
from coterie.evaluate.detectors.option_order import shuffle_finding
from coterie.evaluate.detectors.prompt_band import band_finding, prompt_band
from coterie.evaluate.detectors.twins import twin_finding
from coterie.evaluate.invariance import measure_invariance, why_not
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.subject import Subject
from coterie.results.evaluation import DetectorFinding, ItemRecord, TaskResult


def reply_options(config: EvalConfig, benchmark: Benchmark) -> ReplyOptions:
    """How the items of one task are asked."""
    return ReplyOptions(
        max_tokens=config.max_tokens or benchmark.max_tokens,
        temperature=config.temperature,
        effort=config.effort,
        reasoning_tokens=config.reasoning_tokens,
        form=config.form,
        system=config.system,
        turns=config.turns,
    )


def examined(
    config: EvalConfig,
    subject: Subject,
    benchmark: Benchmark,
    result: TaskResult,
    records: Sequence[ItemRecord],
) -> TaskResult:
    """The result with what was found. Flags of tests are set later, over the whole report (`corrected`)."""
    options = reply_options(config, benchmark)
    found = [failed_finding(result)]
    if benchmark.mode == "reply":
        found.append(extraction_finding(result))
    band = None
    if config.band and benchmark.mode != "text":
        band = prompt_band(subject, benchmark, options, records, config.band, config.band_items)
        found.append(None if band is None else band_finding(band))
    found += _tests(config, subject, benchmark, options, records)
    batches = None
    if config.invariance and isinstance(subject, LocalSubject) and why_not(benchmark) is None:
        batches = measure_invariance(subject, benchmark, options, config.invariance)
    detectors = [finding for finding in found if finding is not None]
    return result.model_copy(update={"band": band, "detectors": detectors, "invariance": batches})


def _tests(
    config: EvalConfig,
    subject: Subject,
    benchmark: Benchmark,
    options: ReplyOptions,
    records: Sequence[ItemRecord],
) -> Iterator[DetectorFinding | None]:
    """The findings of the detectors that were asked for; None where one does not apply to the task."""
    if benchmark.mode == "text":
        return
    task = subject, benchmark
    wanted: dict[str, tuple[bool, Callable[[], DetectorFinding | None]]] = {
        "D2": (config.twins > 0, lambda: twin_finding(*task, options, records, config.twins)),
        "D3": (
            config.shuffled > 0 and benchmark.mode == "choice",
            lambda: shuffle_finding(*task, options, records, config.shuffled),
        ),
        "D4": (
            config.orders > 0 and benchmark.published,
            lambda: order_finding(*task, records, config.orders, config.shards),
        ),
        "D5": (config.twins > 0, lambda: familiarity_finding(*task, records, config.twins)),
        "D7": (config.canaries > 0, lambda: canary_finding(*task, options, config.canaries)),
        "D8": (config.disguised > 0, lambda: disguise_finding(*task, options, records, config.disguised)),
    }
    for name, (asked, find) in wanted.items():
        if asked:
            try:
                yield find()
            except CoterieError as error:
                yield DetectorFinding(id=name, flag=False, says=f"not measured: {error}")
