"""The check of benchmarks: all of them pass it, and faults are found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

from coterie.benchmarks import BENCHMARKS, BenchmarkItem, ItemReply, ItemVerdict, load_benchmark
from coterie.benchmarks.arithmetic import Arithmetic
from coterie.benchmarks.check import check_benchmark
from coterie.benchmarks.facts import FactChoices
from coterie.tasks.battery import ATTACKS

EXECUTES = [name for name in BENCHMARKS if load_benchmark(name).executes]


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in EXECUTES])
def test_benchmarks_pass(name: str) -> None:
    benchmark = load_benchmark(name, n=80)
    report = check_benchmark(benchmark, 80)
    assert report.passed, report.faults
    attacks = len(ATTACKS) - (0 if benchmark.exclusive else 6)
    assert len(report.findings) >= (3 + attacks if benchmark.mode == "reply" else 6)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox needs Linux")
@pytest.mark.parametrize("name", EXECUTES)
def test_benchmarks_that_run_programs_pass(name: str) -> None:
    report = check_benchmark(load_benchmark(name, n=60), 60)
    assert report.passed, report.faults


class Anywhere(Arithmetic):
    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        return ItemVerdict(float(item.answer in reply.text))


class Raises(Arithmetic):
    def equal(self, item: BenchmarkItem, found: str) -> bool:
        return int(found) == int(item.answer)


class Fails(Arithmetic):
    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        return replace(super().judge(item, reply), failed=True, why="the disk is full")


class SameTwins(Arithmetic):
    def twins(self, item: BenchmarkItem, count: int) -> Sequence[BenchmarkItem]:
        return [item] * count


class FewWordings(Arithmetic):
    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        return ["What?"]


class OtherItems(Arithmetic):
    version = "2"  # so other items than those of the name


class FirstOfEqual(FactChoices):
    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        best = max(reply.logprobs, default=0.0)
        return ItemVerdict(float(best == [*reply.logprobs, best][item.answer]))


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (Anywhere, "every candidate, a line each: earns 1"),
        (Raises, "the checker raised ValueError"),
        (Fails, "a right reply: the checker failed on 60: the disk is full"),
        (SameTwins, "twins of arithmetic-00000 are the same"),
        (FewWordings, "wordings of arithmetic-00000 are the same, or fewer than 8"),
        (OtherItems, "the same items come again"),
        (FirstOfEqual, "the same log-probability for all: earns 1"),
    ],
)
def test_each_fault_is_found(kind: type[Arithmetic], fault: str) -> None:
    report = check_benchmark(kind(), 60)
    assert not report.passed
    assert any(fault in line for line in report.faults), report.faults


def test_a_benchmark_without_items_is_reported() -> None:
    report = check_benchmark(load_benchmark("parity", n=2000, levels=0))
    assert report.faults == [
        "items: ConfigError: benchmark parity: the split test has only 6 items at these levels, "
        "not 2000; ask for n=6"
    ]
