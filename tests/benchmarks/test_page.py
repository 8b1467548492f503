"""The page on benchmarks lists what there is."""

from __future__ import annotations

import re
from pathlib import Path

from coterie.benchmarks import BENCHMARKS, PUBLISHED, load_benchmark
from coterie.benchmarks.scorers import SCORERS

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def families() -> str:
    return "\n".join(
        f"| `{name}` | {load_benchmark(name).mode} | {known.says} |" for name, known in BENCHMARKS.items()
    )


def published() -> str:
    return "\n".join(f"| `{name}:PATH` | {kind.says} |" for name, kind in PUBLISHED.items())


def test_the_tables_are_those_of_the_program() -> None:
    text = PAGE.read_text()
    assert families() in text, f"write the table of families again:\n{families()}"
    assert published() in text, f"write the table of copies again:\n{published()}"
    rows = re.findall(r"^\| `(\w+)` \|", text.split("## Your own")[1].split("## Published")[0], re.MULTILINE)
    assert rows == [*SCORERS, "python"]
