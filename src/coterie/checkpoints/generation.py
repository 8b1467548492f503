"""Settings of generation_config.json that change replies in transformers and that this engine lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# With the values that change nothing; null never does.
_UNUSED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), (1,)),
    **dict.fromkeys(("typical_p", "encoder_repetition_penalty", "length_penalty", "guidance_scale"), (1,)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length"), (0,)),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "diversity_penalty", "min_new_tokens"), (0,)),
    **dict.fromkeys(("top_h", "penalty_alpha", "exponential_decay_length_penalty", "sequence_bias"), ()),
    **dict.fromkeys(("bad_words_ids", "force_words_ids", "suppress_tokens", "begin_suppress_tokens"), ([],)),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "max_time", "dola_layers"), ()),
    **dict.fromkeys(("watermarking_config", "constraints", "prompt_lookup_num_tokens"), ()),
}


def unused_settings(generation: Mapping[str, Any]) -> list[str]:
    """One line for each setting that would change replies in transformers and is not applied here."""
    length = generation.get("max_length")
    short = length not in (None, 20) and generation.get("max_new_tokens") is None  # 20: transformers' default
    lines = [f"generation_config.json: 'max_length' is {json.dumps(length)[:60]}, which is not applied here"]
    return (lines if short else []) + [
        f"generation_config.json: '{key}' is {json.dumps(generation[key])[:60]}, which is not applied here"
        for key, neutral in _UNUSED.items()
        if generation.get(key) is not None and generation[key] not in neutral
    ]
