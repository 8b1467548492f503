"""Replies kept on disk, a file for each step: `step-000001.jsonl.gz`, one JSON object a line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from coterie.config.errors import DataError


def keep_step(folder: Path, step: int, replies: Iterable[Mapping[str, Any]]) -> None:
    """Write the replies of a step, whole or not at all; a repeated step writes the same file again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.jsonl.gz"
    temporary = path.with_suffix(".tmp")
    with gzip.open(temporary, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(reply, ensure_ascii=True) + "\n" for reply in replies)
    temporary.replace(path)


def kept_steps(folder: Path, advice: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Each step with its replies, in order. Errors: `DataError` for a damaged file, with `advice`."""
    for path in sorted(folder.glob("step-*.jsonl.gz")):
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                replies = [json.loads(line) for line in file]
            step = int(path.name[5:].split(".")[0])
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{path}: is damaged ({error}); {advice}") from None
        yield step, replies
