"""The quickstart's comparison on several seeds: is the mixture of experts better every time, and by how much?

    python bench/quickstart_seeds.py [--seeds 0 1 2] [--minutes 8]

Runs `coterie quickstart` once per seed, below runs/seed-N, and keeps the figures of all in
bench/results/quickstart.json. A finished seed is read, not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import RESULTS, environment, write_json

KEPT = (
    "path total_parameters active_parameters tokens bits_per_byte lr step_ms tokens_per_second "
    "prefill_tokens_per_second decode_tokens_per_second decode_kernels train_seconds flops "
    "checkpoint_bytes probes"
).split()


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The figures of one `results.json`, without curves, samples and routing."""
    kept = {name: {key: results[name].get(key) for key in KEPT} for name in ("moe", "dense")}
    names = ("seed", "minutes", "machine", "difference", "equal_time", "total_seconds", "data")
    return {name: results[name] for name in names} | kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=8.0)
    options = parser.parse_args()
    runs = []
    for seed in options.seeds:
        out = Path("runs") / f"seed-{seed}"
        if not (out / "results.json").is_file():
            command = [
                sys.executable,
                "-m",
                "coterie.cli.main",
                "quickstart",
                "--seed",
                str(seed),
                "--out",
                str(out),
            ]
            subprocess.run([*command, "--minutes", str(options.minutes)], check=True)
        before = json.loads((out / "results.json").read_text())["minutes"]
        if before != options.minutes:
            sys.exit(f"{out}: was run with --minutes {before:g}; remove it, or ask for as many")
        runs.append(figures(json.loads((out / "results.json").read_text())))
        difference = runs[-1]["difference"]
        print(
            f"seed {seed}: {difference['value']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
        )
    write_json(RESULTS / "quickstart.json", {"environment": environment(), "runs": runs})


if __name__ == "__main__":
    main()
