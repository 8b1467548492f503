"""Where compiled code is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.jit.compiled import folder


def test_the_cache_belongs_to_this_state_of_the_sources(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """numba alone would find code that was compiled for another layout of the tables."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folder.cache_clear()
    try:
        path = folder("coterie.native")
        assert path.parent == tmp_path and path.name.startswith("native-")
    finally:
        monkeypatch.undo()
        folder.cache_clear()
