"""`coterie train`."""

from __future__ import annotations

import json
import sys

from coterie.config.run import TrainConfig
from coterie.recipes.pretrain import pretrain


def run(config: str, overrides: list[str], as_json: bool) -> None:
    """Train as the YAML file and the overrides say; run again, it goes on."""
    settings = TrainConfig.from_yaml(config, overrides)
    result = pretrain(settings, resume_hint=" ".join(["coterie train", config, *overrides]))
    if as_json:
        print(json.dumps(result.to_dict()))
    if result.reason == "interrupted":
        sys.exit(130)
    if result.model is not None and not as_json:
        bits = f", {result.bits_per_byte:.4f} bits per byte on held-out text" if result.bits_per_byte else ""
        print(f"trained {result.tokens:,} tokens in {result.seconds:.0f} s{bits}")
        print(
            f"the model is in {result.model}; talk to it: coterie generate {result.model} 'Once upon a time'"
        )
