"""A model in a GGUF file: what a directory says in its small files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.checkpoints.gguf_model.configs import hf_config
from coterie.checkpoints.gguf_model.keys import GgufKeys
from coterie.checkpoints.gguf_model.source import GgufSource, layer_of
from coterie.checkpoints.gguf_model.tokenizer import TokenKeys, read_tokenizer, stop_ids
from coterie.config import ModelConfig
from coterie.config.files import write_json
from coterie.llamacpp.indexer import SHARED
from coterie.llamacpp.slot import EXACT
from coterie.text.tokenizer import Tokenizer


class GgufModel:
    """A model in a GGUF file or in the parts of a split one; each property is read when it is first used.

    `overrides`: keys of the file that count as if they had these values (None: as if they were absent).
    `tokenizer_from`: a directory whose tokenizer is taken instead of the file's.
    Errors: `CheckpointError`, one line, from any property that cannot be read.
    """

    def __init__(
        self, path: Path, overrides: Mapping[str, Any] | None = None, tokenizer_from: Path | None = None
    ) -> None:
        self.path = path
        self._overrides, self._tokenizer_from = dict(overrides or {}), tokenizer_from

    @cached_property
    def stored(self) -> GgufTensors:
        """The tensors of the file: headers checked, nothing read yet."""
        return GgufTensors.open(self.path)

    @cached_property
    def keys(self) -> dict[str, Any]:
        """The keys of the file, with what was said about them outside."""
        merged = self.stored.keys | self._overrides
        return {name: value for name, value in merged.items() if value is not None}

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """The content that config.json would have."""
        data = hf_config(self._stated)
        named = (("bos", "bos"), ("eos", "eos"), ("padding", "pad"))
        ids = {f"{ours}_token_id": self._tokens.token(theirs) for theirs, ours in named}
        return data | {name: number for name, number in ids.items() if number is not None}

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None where the file has none and no other was named."""
        if self._tokenizer_from is not None:
            return Tokenizer.load(self._tokenizer_from)
        return read_tokenizer(self._tokens)

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The content that generation_config.json would have: the tokens that end a reply."""
        stops = stop_ids(self._tokens)
        return {"eos_token_id": stops} if stops else {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen where the file is silent, one line each."""
        further = {name.split(".")[1] for name in self.stored if layer_of(name) >= self._stated.layers}
        lines = [f"left out: blk.{index}, which predicts further tokens" for index in sorted(further)]
        kinds = enumerate(self.raw_config.get("indexer_types") or ())
        shared = [f"blk.{layer}.indexer." for layer, kind in kinds if kind == SHARED]
        spare = sorted(
            {name.split(".")[1] for name in self.stored if name.startswith(tuple(shared))}, key=int
        )
        if spare:
            lines.append(f"left out: indexers of layers that share the keys of another ({', '.join(spare)})")
        _ = self.tokenizer  # takes notes while it is read
        return (*lines, *self._tokens.notes)

    def tensors(self, config: ModelConfig) -> GgufSource:
        """The tensors under the names of the model's family."""
        return GgufSource(self.stored, config, self.path)

    def write_small_files(self, directory: Path) -> list[str]:
        """Write what a directory has next to config.json and the weights; the names of the files."""
        if self.tokenizer is not None:
            self.tokenizer.save(directory)
        if self.generation_config:
            write_json(directory / "generation_config.json", self.generation_config)
        return sorted(path.name for path in directory.iterdir() if path.is_file())

    @property
    def matrix_dtype(self) -> torch.dtype:
        """The type of all matrices, float32 where types are mixed; some tensors are float32 in every file."""
        matrices = [name for name in self.stored if len(self.stored.shape(name)) > 1]
        kinds = {self.stored.dtype(name) for name in matrices if not name.endswith(EXACT)}
        return kinds.pop() if len(kinds) == 1 else torch.float32

    @cached_property
    def _stated(self) -> GgufKeys:
        return GgufKeys(str(self.path), self.keys, self.stored)

    @cached_property
    def _tokens(self) -> TokenKeys:
        return TokenKeys(str(self.path), self.keys)
