"""Running a model over whole sequences that are packed into passes of limited size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TypeVar

import torch
from torch import Tensor

from coterie.nn.forward_context import ForwardContext
from coterie.nn.recording import Recorder
from coterie.nn.transformer import Transformer

S = TypeVar("S", bound=Sized)
PASS_TOKENS = 2048  # enough to use a processor fully, few enough for little memory


def groups_of(sequences: Iterable[S], limit: int) -> Iterator[list[S]]:
    """The sequences in order, in groups of at most `limit` tokens; a longer one is a group alone."""
    group: list[S] = []
    size = 0
    for sequence in sequences:
        if group and size + len(sequence) > limit:
            yield group
            group, size = [], 0
        group.append(sequence)
        size += len(sequence)
    if group:
        yield group


def forward_packed(
    model: Transformer, sequences: Sequence[Sequence[int]], recorder: Recorder | None = None
) -> Tensor:
    """Hidden states `(T, D)` of one pass over all sequences, each a segment."""
    h_TD: Tensor = model(*_packed(model, sequences, recorder))
    return h_TD


def layers_packed(
    model: Transformer, sequences: Iterable[Sequence[int]], limit: int = PASS_TOKENS
) -> Iterator[list[Recorder]]:
    """Take all sequences through one layer after the other; a record of each pass, with tensors, per layer.

    A pass has at most `limit` tokens. Between two layers only the hidden states of all tokens are in memory.
    """
    passes: list[tuple[Recorder, Iterator[Tensor]]] = []
    for group in groups_of(sequences, limit):
        recorder = Recorder(tensors=True)
        passes.append((recorder, model.layer_by_layer(*_packed(model, group, recorder))))
    for _ in model.blocks:
        for _, steps in passes:
            next(steps)
        yield [recorder for recorder, _ in passes]
        for recorder, _ in passes:
            recorder.clear()


def _packed(
    model: Transformer, sequences: Sequence[Sequence[int]], recorder: Recorder | None
) -> tuple[Tensor, ForwardContext]:
    device = model.embed.weight.device
    ids_T = torch.tensor([token for sequence in sequences for token in sequence], device=device)
    lengths = [len(sequence) for sequence in sequences]
    return ids_T, ForwardContext.packed(lengths, device=device, recorder=recorder)
