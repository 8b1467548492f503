"""The sampling settings that a directory recommends, from its generation_config.json.

They are the defaults of replies unless a call or a request says otherwise, as in vLLM.
"""

from __future__ import annotations

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
