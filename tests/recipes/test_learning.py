"""Learning from rewards is proven: `bench/learn.py` in little (about a minute), and as a whole."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "bench"


def learn(folder: Path, *words: str) -> dict[str, dict[str, Any]]:
    """The runs of the program by name; every run's arms by name."""
    results = folder / "learn.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        patch.setattr(sys, "argv", ["learn.py", "--out", str(folder), "--results", str(results), *words])
        threads = torch.get_num_threads()
        importlib.import_module("learn").main()
        torch.set_num_threads(threads)
    runs: dict[str, dict[str, Any]] = json.loads(results.read_text())["runs"]
    return runs


def test_a_mixture_learns_to_reason_from_true_rewards_alone(tmp_path: Path) -> None:
    """Fixed beforehand: exact McNemar p < 0.001 and 15 points gained on 52 held-out problems of 10 bits."""
    run = learn(tmp_path, "--small", "--archs", "moe", "--seeds", "0", "--arms", "reward")["moe-0"]
    reward = run["reward"]
    assert run["start"]["worked"] < 0.3, "the start must rarely show its work"
    assert reward["passed"] and reward["change"]["p"] < 1e-3
    assert reward["change"]["after"]["value"] >= reward["change"]["before"]["value"] + 0.15
    assert reward["worked"] > 0.8 and reward["tokens"] > run["start"]["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["dense", "moe"])
def test_true_rewards_teach_both_kinds_of_model(arch: str, tmp_path: Path) -> None:
    """1,000 held-out problems of 14 bits; two minutes each."""
    run = learn(tmp_path, "--archs", arch, "--seeds", "0", "--arms", "reward")[f"{arch}-0"]
    assert run["reward"]["passed"]
