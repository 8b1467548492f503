"""The sampling settings that a directory recommends, from its generation_config.json.

They are the defaults of replies unless a call or a request says otherwise, as in vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from coterie.config import ConfigError
from coterie.infer.sampling import SamplingParams

_NAMES = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
# Settings of transformers that change replies and that this engine lacks, with the values that change nothing.
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


def sampling_defaults(
    generation: Mapping[str, Any], stop_strings: Sequence[str] = (), where: str = "generation_config.json"
) -> SamplingParams:
    """The settings of a generation config; keys it lacks, and nulls, have the defaults of `SamplingParams`.

    `do_sample: false` means temperature 0. Errors: `ConfigError`, one line, for a value that cannot be used.
    """
    given = {
        ours: generation[theirs] for theirs, ours in _NAMES.items() if generation.get(theirs) is not None
    }
    if given.get("top_k") == -1:  # another spelling of none
        given["top_k"] = 0
    if generation.get("do_sample") is False:
        given["temperature"] = 0.0
    try:
        return SamplingParams(**given, stop=tuple(stop_strings))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def unused_settings(generation: Mapping[str, Any]) -> list[str]:
    """One line for each setting that would change replies in transformers and is not applied here."""
    return [
        f"generation_config.json: '{key}' is {json.dumps(generation[key])[:60]}, which is not applied here"
        for key, neutral in _UNUSED.items()
        if generation.get(key) is not None and generation[key] not in neutral
    ]
