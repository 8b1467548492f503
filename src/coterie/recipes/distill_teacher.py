"""Opening a teacher: its tokenizer compared with the student's, its answers to rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.fingerprint import weights_fingerprint
from coterie.checkpoints.running_dtype import running_dtype
from coterie.config.errors import ConfigError
from coterie.data.rows import Row
from coterie.data.teacher_targets import Answers, TargetHeader
from coterie.nn.transformer import Transformer
from coterie.text.tokenizer import Tokenizer
from coterie.train.teacher import answers


class Teacher(Protocol):
    """Whoever answers. `model`: None for a server. `path`: where the tokenizer is, or the GGUF file."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> Transformer | None: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def path(self) -> Path: ...

    @property
    def identity(self) -> str: ...

    @property
    def max_positions(self) -> int: ...

    def ask(self, header: TargetHeader, rows: Sequence[tuple[int, Row]]) -> Iterable[Answers]:
        """The answers to numbered rows, in their order."""
        ...


@dataclass(frozen=True)
class LocalTeacher:
    """A model of this machine. `identity`: hash of its weights and the type that it runs in."""

    name: str
    model: Transformer
    tokenizer: Tokenizer
    path: Path
    identity: str

    @staticmethod
    def load(name: str, dtype: str, device: torch.device) -> LocalTeacher:
        """The model of a directory, hub id or GGUF file, whatever form its weights have.

        Errors: `CheckpointError`; `ConfigError` without a tokenizer.
        """
        checkpoint = Checkpoint.open(name)
        chosen = running_dtype(dtype, checkpoint, device).dtype
        tokenizer = own_tokenizer(checkpoint)
        model = checkpoint.load(chosen, device).model.eval().requires_grad_(False)
        identity = f"{weights_fingerprint(checkpoint.path)[:32]} in {str(chosen).removeprefix('torch.')}"
        return LocalTeacher(name, model, tokenizer, checkpoint.path, identity)

    @property
    def max_positions(self) -> int:
        """The longest row it can read."""
        return self.model.config.max_positions

    def ask(self, header: TargetHeader, rows: Sequence[tuple[int, Row]]) -> Iterable[Answers]:
        """The answers to numbered rows."""
        return answers(self.model, header, rows)


def own_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a checkpoint. Errors: `ConfigError` without one."""
    if checkpoint.tokenizer is None:
        raise ConfigError(
            f"{checkpoint.name}: has no tokenizer.json, which distillation compares; add the model's own"
        )
    return checkpoint.tokenizer


def require_same_ids(student: Tokenizer, teacher: Tokenizer, names: tuple[str, str]) -> bool:
    """Refuse two tokenizers whose ids mean different tokens; whether their files are the same.

    Files that differ in other things, such as how text is split, do no harm: only one of them reads the text.
    Errors: `ConfigError`, one line with the first id that differs.
    """
    if student.sha256 == teacher.sha256:
        return True
    sizes = student.vocab_size, teacher.vocab_size
    tables = [one.token_bytes(range(size)) for one, size in zip((student, teacher), sizes, strict=True)]
    if tables[0] == tables[1] and student.added_tokens == teacher.added_tokens:
        return False
    same = sorted(tables[0]) == sorted(tables[1])
    at = next((at for at, (a, b) in enumerate(zip(*tables, strict=False)) if a != b), min(sizes))
    if at == min(sizes):
        found = f"{sizes[0]:,} and {sizes[1]:,} tokens"
    else:
        kind = "the same tokens with other ids" if same else "other tokens"
        found = f"{kind}: id {at} is {_shown(tables[0][at])} and {_shown(tables[1][at])}"
    raise ConfigError(
        f"{names[0]} and {names[1]} have different tokenizers ({found}); distillation compares token by "
        "token: choose a teacher with the student's tokenizer"
    )


def _shown(token: bytes) -> str:
    return repr(token.decode("utf-8", "replace")[:24])
