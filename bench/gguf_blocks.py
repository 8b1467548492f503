"""Unpacking the block types of GGUF into float32 on one core: coterie against the gguf package.

Matrices of random blocks, rows of 4096 numbers. The numbers of both are compared bit for bit first.

    python bench/gguf_blocks.py [--millions 4] [--rounds 9]
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gguf
from common import RESULTS, environment, median, median_ratio, timed, write_json
from coterie.checkpoints.gguf_file.blocks import CODEBOOKS, PIECE, unpack_blocks
from coterie.checkpoints.gguf_file.types import BY_NAME, PLAIN

ROW = 4096


def blocks(kind: str, count: int) -> Any:
    """(count, bytes) random blocks whose numbers are finite."""
    random = np.random.default_rng(0)
    packed = random.integers(0, 256, (count, BY_NAME[kind].nbytes), dtype=np.uint8)
    exponents, most = {"MXFP4": (1, 255), "NVFP4": (4, 127)}.get(kind, (0, 1))
    packed[:, :exponents] %= most
    with np.errstate(all="ignore"):
        good = np.isfinite(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[kind])).all(-1)
    return np.resize(packed[good], packed.shape)


def one(kind: str, numbers: int, rounds: int) -> dict[str, float]:
    """Million numbers a second of both, and the median ratio of times."""
    block = BY_NAME[kind].block
    packed = blocks(kind, numbers // block)
    raw, rows = torch.from_numpy(packed), packed.reshape(numbers // ROW, -1)
    out = torch.empty(numbers // block, block)

    def ours() -> None:
        for start in range(0, len(raw), PIECE // block):
            piece = slice(start, start + PIECE // block)
            unpack_blocks(raw[piece], kind, out[piece])

    def theirs() -> Any:
        return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind])

    ours()
    assert np.array_equal(out.numpy().view(np.uint32).ravel(), theirs().view(np.uint32).ravel()), kind
    times = [(timed(ours)[1], timed(theirs)[1]) for _ in range(rounds)]
    own, other = ([pair[side] for pair in times] for side in (0, 1))
    return {
        "coterie": round(numbers / median(own) / 1e6),
        "gguf": round(numbers / median(other) / 1e6),
        "ratio": round(median_ratio(other, own), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "gguf_blocks.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    types = {}
    for kind in BY_NAME:
        if kind not in PLAIN:
            types[kind] = one(kind, options.millions << 20, options.rounds if kind not in CODEBOOKS else 3)
            print(kind, types[kind], flush=True)
    record = {
        "what": " ".join((__doc__ or "").split("\n\n    ")[0].split()),
        "environment": environment() | {"gguf": version("gguf")},
        "rounds": options.rounds,
        "numbers": options.millions << 20,
        "codebooks": sorted(CODEBOOKS),
        "types": types,
    }
    write_json(options.out, record)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
