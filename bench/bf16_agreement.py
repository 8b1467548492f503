"""How far bfloat16 moves the logits of coterie and of transformers, family by family, on the same weights.

The small random models of the parity tests (every parameter randomised), 40 prompts of 40 tokens. Reported
against transformers in float32: share of positions with the same best token, and mean Kullback-Leibler
divergence in nats, for coterie and for transformers in bfloat16. A router may choose another expert when its
scores are nearly level: most of the remaining difference comes from this.

    python bench/bf16_agreement.py [--prompts N]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from common import RESULTS, environment, write_json
from coterie.checkpoints.directory import load_model
from coterie.nn.forward_context import ForwardContext

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.families.hf import CONFIGS, VOCAB, tiny

LENGTH = 40


@torch.no_grad()
def measure(name: str, prompts: Tensor) -> dict[str, float]:
    """Agreement and divergence of both sides in bfloat16."""
    reference = tiny(name)
    with tempfile.TemporaryDirectory() as path:
        reference.save_pretrained(path)
        ours = load_model(path, dtype="bfloat16").model.eval()
        theirs = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.bfloat16, attn_implementation="eager"
        ).eval()
    theirs.config._experts_implementation = "eager"  # grouped_mm wants wider rows in bfloat16
    exact = reference(prompts).logits.flatten(0, 1)
    context = ForwardContext.packed([LENGTH] * len(prompts))
    found = {
        "coterie": ours.logits(ours(prompts.flatten(), context)),
        "transformers": theirs(prompts).logits.flatten(0, 1).float(),
    }
    result: dict[str, float] = {}
    for side, logits in found.items():
        p, q = exact.log_softmax(-1), logits.log_softmax(-1)
        result[f"{side}_top1"] = float((p.argmax(-1) == q.argmax(-1)).float().mean())
        result[f"{side}_kl"] = float((p.exp() * (p - q)).sum(-1).mean())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS / "bf16_agreement.json")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(5)
    prompts = torch.randint(0, VOCAB, (options.prompts, LENGTH), generator=generator)
    families: dict[str, dict[str, Any]] = {}
    for name in sorted(CONFIGS):
        found = families[name] = measure(name, prompts)
        print(name.ljust(28), "  ".join(f"{key} {value:.4f}" for key, value in found.items()), flush=True)
    what = " ".join((__doc__ or "").split("\n\n    ")[0].split())
    write_json(options.out, {"what": what, "environment": environment(), "families": families})
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
