"""Count how often a checkpoint's files are opened: for tests that a verb opens each directory once."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from coterie.checkpoints import tensor_reader
from coterie.config import files
from coterie.proof import records


def count_opens(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file was opened from now on: weights (by their headers), JSON, manifests and probes."""
    opened: Counter[Path] = Counter()

    def watch(original: Any, file_of: Any) -> None:
        def counted(path: Any, *args: Any, **kwargs: Any) -> Any:
            opened[file_of(Path(path))] += 1
            return original(path, *args, **kwargs)

        # A module that imported the function by name holds its own reference.
        for name, module in list(sys.modules.items()):
            if name.startswith("coterie") and getattr(module, original.__name__, None) is original:
                monkeypatch.setattr(module, original.__name__, counted)

    watch(tensor_reader.read_header, lambda path: path)
    watch(files.read_json, lambda path: path)
    watch(records.load_probes, lambda path: path / records.FILE)
    return opened


def of_directory(opened: Counter[Path], directory: Path) -> dict[str, int]:
    """The counts of the files directly in `directory`, by file name."""
    return {path.name: count for path, count in opened.items() if path.parent == directory}
