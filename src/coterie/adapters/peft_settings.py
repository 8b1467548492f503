"""What `adapter_config.json` and an adapter's stamp may hold, checked before anything is computed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from coterie.config import CheckpointError
from coterie.config.patterns import may_explode

_LARGEST_RANK = 1 << 16
_LONGEST_PATTERN = 500


def check_settings_types(data: Mapping[str, Any], where: str) -> None:
    """Refuse values that PEFT could not have written. `where`: the directory, for messages.

    Errors: `CheckpointError` naming the key.
    """
    for name, (fits, wanted) in _SETTINGS.items():
        if data.get(name) is not None and not fits(data[name]):
            shown = repr(data[name])[:60]
            raise CheckpointError(f"{where}: adapter_config.json has '{name}' {shown}; {wanted} was expected")


def check_stamp_types(stamp: Any, where: str) -> dict[str, Any]:
    """The stamp of an adapter's manifest. Errors: `CheckpointError` naming the key that has another type."""
    if not isinstance(stamp, dict):
        raise CheckpointError(f"{where}: the 'adapter' of its manifest is not an object")
    for name, fits in _STAMP.items():
        if stamp.get(name) is not None and not fits(stamp[name]):
            raise CheckpointError(f"{where}: its stamp has an unusable '{name}'; fetch the adapter again")
    return stamp


@lru_cache(maxsize=1024)
def path_pattern(text: str, where: str) -> re.Pattern[str]:
    """The expression that a key of `rank_pattern` or `alpha_pattern` is: PEFT matches it with ends of paths.

    Python's search takes exponential time for repetitions inside repetitions, which no path needs. Errors:
    `CheckpointError` for these, and for what is not a regular expression.
    """
    wrong = f"{where}: adapter_config.json has a pattern that"
    if len(text) > _LONGEST_PATTERN or may_explode(text):
        raise CheckpointError(
            f"{wrong} is too long or repeats repetitions: '{text[:60]}'; name the layers plainly"
        )
    try:
        return re.compile(rf"(.*\.)?({text})")
    except (re.error, OverflowError, RecursionError):
        raise CheckpointError(f"{wrong} is not a regular expression: '{text[:60]}'") from None


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST_RANK


def _alpha(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _table(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_rank, f"a whole number from 1 to {_LARGEST_RANK:,}"),
    "lora_alpha": (_alpha, "a number"),
    "rank_pattern": (_table(_rank), "an object of ranks by layer"),
    "alpha_pattern": (_table(_alpha), "an object of numbers by layer"),
    "target_modules": (lambda value: _text(value) or _texts(value), "a name or a list of names"),
    "target_parameters": (_texts, "a list of names"),
    "modules_to_save": (_texts, "a list of names"),
    "base_model_name_or_path": (_text, "a path or a name"),
    "use_rslora": (lambda value: isinstance(value, bool), "true or false"),
    "use_dora": (lambda value: isinstance(value, bool), "true or false"),
}
_STAMP: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("layout", "family", "gate_up", "rank_rule", "version"), _text),
    "peft_cannot": _texts,
    "config": lambda value: isinstance(value, dict),
    "experts": _table(
        lambda chosen: isinstance(chosen, list) and all(type(e) is int and e >= 0 for e in chosen)
    ),
    "base": lambda value: (
        isinstance(value, dict)
        and _table(_text)(value.get("tensors") or {})
        and all(value.get(name) is None or _text(value[name]) for name in ("path", "manifest"))
    ),
}
