"""Compare a quantised directory as transformers loads it with what coterie reads: `read.py DIR`.

Both ways of transformers are taken: codes that are widened in the first pass, and `dequantize=True`. Its
weights are bfloat16, as the scales are; ours are rounded to that.
"""

import re
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from coterie.checkpoints.checkpoint import Checkpoint

EXPERT = re.compile(r"(.*)\.experts\.(\d+)\.(\w+)\.weight")
PLACES = {
    **dict.fromkeys(("gate_proj", "w1"), ("gate_up_proj", 0, 2)),
    **dict.fromkeys(("up_proj", "w3"), ("gate_up_proj", 1, 2)),
    **dict.fromkeys(("down_proj", "w2"), ("down_proj", 0, 1)),
}


def theirs(state, name):
    """The tensor of transformers that `name` on disk became; None for one that it calls otherwise."""
    if name in state:
        return state[name]
    found = EXPERT.fullmatch(name)
    if found is None:
        return None
    fused, half, halves = PLACES[found[3]]
    layer = found[1].replace("block_sparse_moe", "mlp")
    return state[f"{layer}.experts.{fused}"][int(found[2])].chunk(halves)[half]


def compare(tensors, settings):
    model = AutoModelForCausalLM.from_pretrained(
        sys.argv[1], dtype=torch.bfloat16, experts_implementation="eager", **settings
    )
    with torch.no_grad():
        model(torch.arange(1, 20)[None])
    state, coded = model.state_dict(), 0
    for name in tensors:
        their = theirs(state, name)
        if tensors.form(name) is not None:
            assert their is not None, name
            coded += 1
        if their is not None:
            assert torch.equal(their.float(), tensors.read(name).bfloat16().float()), name
    assert coded, "nothing is in codes"


stored = Checkpoint.open(Path(sys.argv[1])).tensors
compare(stored, {})
compare(stored, {"quantization_config": CompressedTensorsConfig(dequantize=True)})
