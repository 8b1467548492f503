"""Generated benchmarks: the same items everywhere, twins and wordings, strata."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest

from coterie.benchmarks import BENCHMARKS, items_digest, load_benchmark
from coterie.config import ConfigError


def test_the_items_do_not_depend_on_the_seed_of_hashes() -> None:
    code = (
        "from coterie.benchmarks import *\n"
        "for name in BENCHMARKS: print(name, items_digest(load_benchmark(name, n=40).items()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("0", "1234")
    }
    assert len(outputs) == 1
    here = {name: items_digest(load_benchmark(name, n=40).items()) for name in BENCHMARKS}
    assert dict(line.split() for line in outputs.pop().splitlines()) == here


@pytest.mark.parametrize("name", BENCHMARKS)
def test_sizes_and_seeds(name: str) -> None:
    few, more = load_benchmark(name, n=20).items(), load_benchmark(name, n=60).items()
    other = load_benchmark(name, n=60, seed=1).items()
    assert (len(few), len(more), len(other)) == (20, 60, 60)
    assert [item.digest for item in few] == [item.digest for item in more[:20]]
    same = {repr(item.turns) for item in more} & {repr(item.turns) for item in other}
    assert len(same) < 30
    assert all(item.cluster and item.group and item.source["license"] for item in more)
    assert all(item.passage in repr(item.turns) or item.passage in item.question for item in more)
    groups = Counter(item.group for item in load_benchmark(name).items())
    assert len(groups) >= 2 and min(groups.values()) >= 4


@pytest.mark.parametrize("name", BENCHMARKS)
def test_twins_come_again_and_from_the_file_s_items_too(name: str) -> None:
    benchmark = load_benchmark(name, n=20)
    for item in benchmark.items()[:5]:
        twins = benchmark.twins(item, 3)
        assert [one.digest for one in twins] == [one.digest for one in load_benchmark(name).twins(item, 3)]
        for twin in twins:
            reply = benchmark.oracle(twin)
            assert reply is not None
            assert benchmark.executes or benchmark.judge(twin, reply).right


def test_operands_have_as_many_digits_as_the_group_says() -> None:
    benchmark = load_benchmark("arithmetic", n=400)
    for item in benchmark.items():
        template, group = item.cluster.split("/")
        if template in ("add", "subtract", "multiply"):
            for one in (item, *benchmark.twins(item, 2)):
                question = one.question.split("?")[0]
                digits = {len(number) for number in re.findall(r"\d+", question)}
                assert digits == {int(group.split()[0])}
                assert str(eval(question.removeprefix("What is "))) == one.answer


def test_too_many_items_are_refused_with_a_number_that_works() -> None:
    with pytest.raises(ConfigError, match="benchmark facts: unknown key 'm'"):
        load_benchmark("facts", m=3)
    with pytest.raises(ConfigError, match=r"'arithmetics' does not exist .did you mean 'arithmetic'"):
        load_benchmark("arithmetics")
    with pytest.raises(ConfigError, match="greater than or equal to 1"):
        load_benchmark("facts", n=0)
