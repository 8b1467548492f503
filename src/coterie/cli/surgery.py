"""`coterie surgery`: run an operation and print its receipt."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from coterie.recipes.surgery import RECEIPT, Operation, operate
from coterie.recipes.surgery_healing import Healing
from coterie.report.words import count, size


def run(kind: str, settings: Mapping[str, Any], common: Mapping[str, Any]) -> None:
    """Operate on `common['model']` and print what changed."""
    healing = None
    if common["heal"] or common["steps"] is not None:
        healing = Healing(common["steps"] or 100, common["lr"], common["train"], seed=common["seed"])
    operation = Operation(
        kind,
        common["model"],
        common["out"],
        settings,
        data=tuple(common["data"] or ("primer",)),
        heal_data=tuple(common["heal"] or ()),
        healing=healing,
        distil=common["distil"],
    )
    receipt = operate(operation, lambda line: print(line, file=sys.stderr))
    print(json.dumps(receipt) if common["as_json"] else _words(receipt, common["out"]))


def _words(receipt: Mapping[str, Any], out: str) -> str:
    before, after = receipt["parameters"]["before"], receipt["parameters"]["after"]
    memory = receipt["memory_bytes_bfloat16"]
    lines = [
        f"{receipt['operation']}: {receipt['source']} -> {out}",
        f"parameters   total {count(before['total'])} -> {count(after['total'])}, "
        f"active {count(before['active_all'])} -> {count(after['active_all'])}",
        f"memory       {size(memory['before'])} -> {size(memory['after'])} in bfloat16",
    ]
    for name, found in receipt["function"].items():
        top1 = "" if found["top1"] is None else f", same best token {found['top1']:.1%}"
        lines.append(
            f"function     {name.replace('_', ' ')}: log-probabilities differ by {found['mean_logprob']:.2g} "
            f"on average, {found['max_logprob']:.2g} at most{top1}"
        )
    perplexity = receipt["perplexity"]
    if perplexity["before"] is not None:
        path = " -> ".join(
            f"{perplexity[k]:.4g} ({k})" for k in ("before", "after", "healed") if k in perplexity
        )
        lines.append(f"perplexity   {path} on {', '.join(perplexity['data'])}")
    lines += [f"lost         {what}" for what in receipt["lost"]]
    lines.append(f"loads in     coterie (read back), transformers as {receipt['loads_in']['transformers']}")
    return "\n".join([*lines, f"receipt      {out}/{RECEIPT}"])
