"""Optional packages."""

from __future__ import annotations

import importlib.util

from coterie.config.errors import ConfigError


def require_extra(module: str, purpose: str, install: str) -> None:
    """Check that an optional package is installed.

    Errors: `ConfigError` "PURPOSE: pip install INSTALL" when `module` cannot be found.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{purpose}: pip install {install}")
