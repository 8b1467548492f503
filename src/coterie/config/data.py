"""What a corpus is made of and how it becomes rows of tokens."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from coterie.config.base import Settings


class SourceConfig(Settings):
    """One source: a file, a directory, `primer[@version]` or `hf://owner/name[:split]`.

    `weight`: how often each of its training documents is seen in one epoch (2: twice; 0.5: half of them).
    `name`: the slice that its documents are counted under (default: derived from the file). `max_bytes`:
    reading stops there.
    """

    path: str = Field(min_length=1)
    weight: float = Field(1.0, gt=0)
    name: str | None = None
    max_bytes: int | None = Field(None, gt=0)


class ExcludedItems(Settings):
    """Evaluation items that must not be trained on.

    `items`: JSONL files with id, question and answer. `on_found`: what to do with a document that holds
    `least_run` units in a row of an item (docs/contamination.md): end the run, or leave the document out.
    """

    items: tuple[str, ...] = Field(min_length=1)
    on_found: Literal["stop", "drop"] = "stop"
    least_run: int = Field(13, ge=8)

    @field_validator("items", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class DataConfig(Settings):
    """How sources become token shards. A source may be written as its path alone.

    `exclude`: evaluation items whose documents are not trained on. `tokenizer`: a directory with
    tokenizer.json; None trains one of `vocab_size` on the training side. `heldout_fraction`: share of
    documents kept for evaluation, chosen by their content.
    """

    sources: tuple[SourceConfig, ...] = Field((SourceConfig(path="primer"),), min_length=1)
    text_field: str = "text"
    tokenizer: str | None = None
    vocab_size: int = Field(4096, ge=265)
    row_length: int = Field(512, ge=2)
    heldout_fraction: float = Field(0.05, gt=0, lt=1)
    seed: int = Field(0, ge=0)
    dedup_exact: bool = True
    dedup_near: bool = True
    near_threshold: float = Field(0.8, gt=0, le=1)
    max_bytes: int | None = Field(None, gt=0)
    exclude: ExcludedItems | None = None

    @field_validator("sources", mode="before", json_schema_input_type=str | tuple[str | SourceConfig, ...])
    @classmethod
    def _paths(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            return items
        return tuple({"path": item} if isinstance(item, str) else item for item in items)
