"""The battery as a whole."""

from __future__ import annotations

from coterie.benchmarks.safety.battery import SAFETY


def test_every_benchmark_is_complete() -> None:
    for name, kind in SAFETY.items():
        bench = kind()
        assert name == bench.name and name.startswith("safety-") and bench.says
        items = bench.items()
        assert [item.digest for item in items] == [item.digest for item in kind().items()]
        assert all(item.group and item.cluster for item in items)
