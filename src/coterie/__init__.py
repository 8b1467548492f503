"""coterie: open mixture-of-experts language models that anyone can train, tune, check and serve."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public names and the module each lives in; imported on first use, so that `import coterie` stays cheap.
_PUBLIC = {
    "load": "coterie.infer.model",
    "save": "coterie.infer.model",
    "serve_in_thread": "coterie.serve.server",
    "openai_client": "coterie.serve.inprocess",
    "tune": "coterie.recipes.tune",
    "CoterieError": "coterie.config",
}
__all__ = ["CoterieError", "__version__", "load", "openai_client", "save", "serve_in_thread", "tune"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'coterie' has no attribute '{name}'")
