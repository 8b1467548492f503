"""`coterie train distill --on-policy`: the student replies, and the teacher corrects what it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coterie.config.on_policy import OnPolicyConfig


def on_policy_settings(
    file: str | None, options: Mapping[str, Any], refused: Mapping[str, Any], overrides: Sequence[str]
) -> OnPolicyConfig:
    """The settings of the YAML file, then the options, then `key=value`; the later one counts.

    `refused`: options of the other modes, with what was given. Errors: `ConfigError` for one of them.
    """
    from coterie.config import ConfigError
    from coterie.config.base import apply_overrides, read_yaml
    from coterie.config.on_policy import OnPolicyConfig

    other = next((option for option, value in refused.items() if value), None)
    if other is not None:
        raise ConfigError(f"{other} does not go with --on-policy, which replies to --task or --examples")
    given = {key: value for key, value in options.items() if value is not None}
    settings = apply_overrides((read_yaml(file) if file else {}) | given, overrides)
    return OnPolicyConfig.from_dict(settings, file or "distill")
