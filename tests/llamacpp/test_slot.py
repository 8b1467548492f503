"""A slot's numbers go into the file's tensor and come back, whatever the order of its rows."""

from __future__ import annotations

from dataclasses import replace

import torch

from coterie.llamacpp.slot import PLUS_ONE, GgufSlot


def _half(part: int, name: str) -> GgufSlot:
    """Every second row of a tensor of eight."""
    return GgufSlot("both", (8, 3), name, ((lambda stored: stored[part::2], lambda parameter: parameter),))


def test_two_parameters_share_a_tensor() -> None:
    first, second = torch.arange(12.0).view(4, 3), torch.arange(12.0, 24.0).view(4, 3)
    stored = _half(0, "a").pack(first)
    _half(1, "b").add_to(stored, second)
    assert stored[:, 0].tolist() == [0, 12, 3, 15, 6, 18, 9, 21]
    for part, wanted in enumerate((first, second)):
        found = torch.empty(4, 3)
        _half(part, "?").unpack(stored, found)
        assert torch.equal(found, wanted)


def test_a_change_is_undone_and_keeps_rows_from_moving_as_codes() -> None:
    slot = replace(_half(1, "a"), change=PLUS_ONE, note="every second row")
    parameter, found = torch.tensor([[-0.5, 0.25, 3.0]] * 4, dtype=torch.bfloat16), torch.empty(4, 3)
    stored = slot.pack(parameter)
    assert stored.dtype == torch.float32 and stored[1].tolist() == [0.5, 1.25, 4.0]
    slot.unpack(stored, found)
    assert torch.equal(found, parameter.float())
    assert not slot.of_rows(parameter) and _half(1, "a").of_rows(parameter)
    assert slot.words == "every second row, plus 1"
