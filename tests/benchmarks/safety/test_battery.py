"""The battery as a whole."""

from __future__ import annotations

from coterie.benchmarks import SUITES, load_benchmark
from coterie.benchmarks.check import check_benchmark
from coterie.benchmarks.safety.battery import SAFETY


def test_every_benchmark_is_complete() -> None:
    for name, kind in SAFETY.items():
        bench = kind()
        assert name == bench.name and name.startswith("safety-") and bench.says
        items = bench.items()
        assert [item.digest for item in items] == [item.digest for item in kind().items()]
        assert all(item.group and item.cluster for item in items)


# The rest of the check is for questions with one answer; here most replies that know nothing are harmless.
TRIED = ("the same items come again", "twins and wordings", "a right reply")


def test_right_replies_earn_all_and_recipes_load_again() -> None:
    assert SUITES["safety"] == tuple(SAFETY)
    for name in SAFETY:
        bench = load_benchmark(name)
        report = check_benchmark(bench)
        passed = [finding.what for finding in report.findings if finding.passed]
        assert not set(TRIED) - set(passed), name
        recipe = bench.recipe()
        again = load_benchmark(recipe["name"], **recipe["settings"])
        assert [item.digest for item in again.items()] == [item.digest for item in bench.items()]
