"""Loading a 2 GB mixture of experts: coterie against transformers, fresh processes, files in page cache.

The checkpoint has the layout of Qwen3-MoE (one tensor per expert and matrix), bfloat16, in shards of 512 MB.
Time is from the call to the last byte in memory; the peak is the process's largest resident size minus
that after its imports.

    python bench/load.py [--gigabytes 2] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, environment, median, median_ratio, resident, write_json

SIDES = ("coterie", "transformers")


def generate(path: Path, gigabytes: float) -> int:
    """Write the checkpoint; the number of its parameters."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    layers = max(1, round(8 * gigabytes / 2))
    config = Qwen3MoeConfig(
        vocab_size=32768,
        hidden_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        num_experts=64,
        num_experts_per_tok=8,
        moe_intermediate_size=576,
        intermediate_size=4096,
        norm_topk_prob=True,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(path, max_shard_size="512MB")
    return sum(parameter.numel() for parameter in model.parameters())


def one(side: str, path: str) -> None:
    """Load in this process; print the figures as JSON."""
    if side == "coterie":
        from coterie.checkpoints.directory import load_model

        def load() -> Any:
            return load_model(path, dtype="bfloat16").model
    else:
        import torch
        from transformers import AutoModelForCausalLM, Qwen3MoeForCausalLM  # noqa: F401 (its import is not timed)
        from transformers.utils import logging

        logging.disable_progress_bar()

        def load() -> Any:
            return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)

    before = resident("VmHWM")
    start = time.perf_counter()
    model = load()
    # The last byte really came.
    total = sum(float(parameter.flatten()[-1]) for parameter in model.parameters())
    seconds = time.perf_counter() - start
    assert total == total
    parameter_bytes = sum(parameter.nbytes for parameter in model.parameters())
    print(
        json.dumps(
            {"seconds": seconds, "peak_bytes": resident("VmHWM") - before, "parameter_bytes": parameter_bytes}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "load.json")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    figures: dict[str, dict[str, list[float]]] = {side: {"seconds": [], "peak_bytes": []} for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        parameters = generate(Path(folder), options.gigabytes)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        for round_number in range(options.repeats + 1):
            for side in SIDES:
                command = [sys.executable, __file__, "--one", side, folder]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                if round_number:  # the first round fills the page cache
                    for name, values in figures[side].items():
                        values.append(found[name])
                    print(
                        f"{side:14s} {found['seconds']:6.2f} s  peak {found['peak_bytes'] / 1e9:5.2f} GB",
                        flush=True,
                    )
    record = {
        "what": " ".join((__doc__ or "").split("\n\n    ")[0].split()),
        "environment": environment(),
        "repeats": options.repeats,
        "parameters": parameters,
        "file_bytes": size,
        "sides": {
            side: {name: median(values) for name, values in found.items()} for side, found in figures.items()
        },
        "ratios": {
            name: round(median_ratio(figures["coterie"][name], figures["transformers"][name]), 3)
            for name in ("seconds", "peak_bytes")
        },
    }
    print(record["ratios"])
    write_json(options.out, record)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
