"""Decoding with drafts against decoding without: the same tokens, in turns, in one process.

`edit` and `chat`: the real SmolLM2-135M-Instruct (tests/real fetches it) repeats a program with one name
changed, and talks. `mixture`: 610 M random numbers in 64 experts, whose drafts are the known reply with each
token wrong by a given chance, so that they are right as often as planned. Figures are processor seconds of
whole replies; the ratio is without drafts over with.

    python bench/speculate.py [--rounds 3] [--tokens 64] [--cases edit,chat,mixture] [--kind bfloat16]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, environment, median, median_ratio, write_json
from coterie.infer.drafts import Drafts
from coterie.infer.engine import Engine
from coterie.infer.model import LanguageModel, load
from coterie.infer.sampling import SamplingParams
from decode import write_model

REAL = Path(os.environ.get("COTERIE_TEST_CACHE", "~/.cache/coterie-tests")) / "smollm2-135m-instruct"
PROGRAM = """def total_price(items, discount):
    total = 0.0
    for item in items:
        price = item["price"] * item["count"]
        if item.get("taxed"):
            price *= 1.19
        total += price
    if total > 100.0:
        total -= discount
    return total
"""
ASKED = {
    "edit": "Repeat this program, but call the variable `total` now `amount`:\n\n" + PROGRAM,
    "chat": "Why is the sky blue, and why are sunsets red?",
}


@dataclass
class Case:
    """A name, a model, prompts, and what makes the drafts besides lookups: their share of right tokens."""

    name: str
    model: LanguageModel
    prompts: list[list[int]]
    right: float | None = None


def planted(known: dict[int, list[int]], right: float) -> Callable[[Drafts, Sequence[int], int], None]:
    """Drafts of the known replies, by the first token of their prompts."""
    rng = random.Random(0)

    def propose(self: Drafts, tokens: Sequence[int], most: int) -> None:
        ahead = known[tokens[0]][len(tokens) : len(tokens) + most]
        self.proposal = [token if rng.random() < right else 0 for token in ahead]
        self.kind, self.since, self.fed = max(self.right), len(tokens), 0

    return propose


def seconds(engine: Engine, case: Case, num_tokens: int) -> tuple[float, list[list[int]]]:
    """Processor seconds of the replies after their prompts are read, and their tokens."""
    params = SamplingParams(temperature=0, max_tokens=num_tokens, stop_ids=())
    ids = [engine.add(prompt, params) for prompt in case.prompts]
    replies: dict[int, list[int]] = {one: [] for one in ids}
    while not all(replies.values()):
        for event in engine.step():
            replies[event.request].append(event.token)
    begun = time.process_time()
    while engine.busy:
        for event in engine.step():
            replies[event.request].append(event.token)
    return time.process_time() - begun, list(replies.values())


def measure(case: Case, num_tokens: int, rounds: int) -> dict[str, Any]:
    """One row: an engine with drafts and one without, a warm-up each, then rounds in turns."""
    plain, fast = (Engine(case.model.model, speculate=mode) for mode in ("off", "auto"))  # type: ignore[arg-type]
    _, wanted = seconds(plain, case, num_tokens)
    usual = Drafts.propose
    if case.right is not None:
        known = {prompt[0]: prompt + reply for prompt, reply in zip(case.prompts, wanted, strict=True)}
        Drafts.propose = planted(known, case.right)  # type: ignore[method-assign]
    seconds(fast, case, num_tokens)
    before = fast.speculation.num_drafted, fast.speculation.num_accepted
    times: dict[str, list[float]] = {"off": [], "auto": []}
    for _ in range(rounds):
        for name, engine in (("off", plain), ("auto", fast)):
            spent, tokens = seconds(engine, case, num_tokens)
            assert tokens == wanted, f"{case.name}: {name} wrote other tokens"
            times[name].append(spent)
    Drafts.propose = usual  # type: ignore[method-assign]
    drafted = fast.speculation.num_drafted - before[0]
    count = num_tokens * len(case.prompts)
    row = {
        "case": case.name,
        "right": case.right,
        "sequences": len(case.prompts),
        "tokens": count,
        "milliseconds": {name: 1000 * median(spent) / count for name, spent in times.items()},
        "ratio": median_ratio(times["off"], times["auto"]),
        "drafted": drafted / rounds / count,
        "accepted": (fast.speculation.num_accepted - before[1]) / rounds / count,
        "kernels": fast.kernels_used,
    }
    print(row, file=sys.stderr, flush=True)
    return row


def cases(names: Sequence[str], kind: str, folder: Path) -> list[Case]:
    """What is measured."""
    found = []
    if {"edit", "chat"} & set(names):
        real = load(REAL.expanduser(), dtype=kind)
        for name in ASKED:
            if name in names:
                found.append(Case(name, real, [real.render([{"role": "user", "content": ASKED[name]}])]))
        if "chat" in names:
            prompts = [real.render([{"role": "user", "content": f"{ASKED['chat']} ({n})"}]) for n in range(8)]
            found.append(Case("chat", real, prompts))
    if "mixture" in names:
        write_model("mixture", folder)
        model = load(folder, dtype=kind)
        prompts = [[(7 * token + row) % 300 for token in range(160)] for row in range(4)]
        for right in (0.3, 0.6, 0.9):
            found += [Case("mixture", model, prompts[:count], right) for count in (1, 4)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--cases", default="edit,chat,mixture")
    parser.add_argument("--kind", default="bfloat16")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = cases(given.cases.split(","), given.kind, Path(folder))
        rows = [measure(case, given.tokens, given.rounds) for case in found]
    record = {"environment": environment(), "rounds": given.rounds, "kind": given.kind, "rows": rows}
    write_json(RESULTS / "speculate.json", record)


if __name__ == "__main__":
    main()
