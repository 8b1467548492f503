"""The section on learning from rewards: every arm against its start, and what learning costs."""

from __future__ import annotations

import statistics
from typing import Any

from markup import table

ARMS = {
    "reward": "true rewards",
    "shuffled": "shuffled",
    "random": "random",
    "flipped": "turned round",
    "tuned": "tuned further",
}
_NAMES = {"dense": "dense", "moe": "mixture"}
_REACHED = 0.8


def learning(record: dict[str, Any]) -> str:
    """One row per model and seed, greedy and sampled, then one per model with its operations."""
    runs = record["runs"]
    rows, sampled = [], []
    for name, run in runs.items():
        arch, _, seed = name.partition("-")
        for found, start, what in ((rows, "accuracy", "change"), (sampled, "sampled", "sampled")):
            cells = [_after(run[arm], what) if arm in run else "not run" for arm in ARMS]
            found.append([_NAMES[arch], seed, f"{100 * run['start'][start]:.1f} %", *cells])
    passed = {arm: [run[arm]["passed"] for run in runs.values() if arm in run] for arm in ARMS}
    largest = max(run["reward"]["change"]["p"] for run in runs.values() if run["reward"]["passed"])
    verdict = "; ".join(f"{words} {sum(passed[arm])} of {len(passed[arm])}" for arm, words in ARMS.items())
    environment = record["environment"]
    words = (
        "Held-out accuracy (1,000 parities of 14 bits, half of them even, greedy) of models that can work a "
        "problem through and rarely do, and after reinforcement with true and altered rewards. 'Tuned "
        "further' took as many operations on the start's conversations as 'true rewards', sampling included. "
        "An arm passes with exact McNemar p < 0.001 and 15 points gained; this was fixed before the runs. "
        f"Passed: {verdict}. The largest p of those that passed is {largest:.0e}. Machine: "
        f"{environment['processor']}, one thread, shared. Command: `python bench/{environment['command']}`."
    )
    draws = ", ".join(str(run["start"]["draws"]) for run in runs.values())
    between = (
        "The same with four replies to each problem sampled at temperature 1, where a start can also become "
        f"worse. Fresh models drawn until one followed the worked lessons, in the order of the rows: {draws}."
    )
    question = (
        "Does the mixture reason more cheaply? Operations (10^9, sampling included; mean of the seeds and "
        f"range of those that passed) of the start, of the rewards until {_REACHED:.0%} of replies sampled "
        "in a step were right, and of all steps. Both models use equally many numbers per token."
    )
    head = ["model", "parameters", "active", "start", f"rewards until {_REACHED:.0%}", "all rewards"]
    costs = [_costs(arch, runs) for arch in _NAMES if any(name.startswith(arch) for name in runs)]
    arms = ["model", "seed", "start", *ARMS.values()]
    parts = [words, table(arms, rows), between, table(arms, sampled), question, table(head, costs)]
    return "## Learning to reason from rewards\n\n" + "\n\n".join(parts)


def _after(arm: dict[str, Any], what: str) -> str:
    return f"{100 * arm[what]['after']['value']:.1f} %"


def _costs(arch: str, runs: dict[str, Any]) -> list[str]:
    here = [run for name, run in runs.items() if name.startswith(arch) and run["reward"]["passed"]]
    steps = [run["reward"]["steps"] for run in here]
    reached = [next((s["operations"] for s in found if s["right"] >= _REACHED), None) for found in steps]
    first = here[0]["start"]
    return [
        _NAMES[arch],
        f"{first['parameters']:,}",
        f"{first['active']:,}",
        _spread([run["start"]["operations"] for run in here]),
        "not reached" if None in reached else _spread([value for value in reached if value is not None]),
        _spread([found[-1]["operations"] for found in steps]),
    ]


def _spread(values: list[float]) -> str:
    low, high = (f"{value / 1e9:.0f}" for value in (min(values), max(values)))
    mean = f"{statistics.mean(values) / 1e9:.0f}"
    return mean if low == high else f"{mean} ({low} to {high})"
