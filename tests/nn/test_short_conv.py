"""The gated short convolution against its formula, in packed segments and in pieces."""

from __future__ import annotations

import pytest
import torch

from coterie.config.mixers import ShortConvConfig
from coterie.infer.cache import SequenceCache
from coterie.nn.forward_context import ForwardContext
from coterie.nn.short_conv import ShortConv
from tests.arithmetic import assert_close, assert_model_close
from tests.infer.models import tiny_model


@pytest.mark.parametrize("bias", [False, True])
def test_packed_segments_equal_the_formula(bias: bool) -> None:
    made, lengths = ShortConv(6, ShortConvConfig(channels=5, kernel=3, bias=bias)), (7, 1, 2)
    generator, expected = torch.Generator().manual_seed(0), []
    x_TD = torch.randn(10, 6, generator=generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for part in x_TD.split(lengths):
            b, c, x = made.bcx(part).chunk(3, dim=-1)
            inputs = torch.cat((torch.zeros(2, 5), b * x))
            y = torch.stack([(inputs[t : t + 3] * made.conv.T).sum(0) for t in range(len(part))])
            expected.append(made.o(c * (y + (0 if made.conv_bias is None else made.conv_bias))))
        found = made(x_TD, ForwardContext.packed(lengths))
    size = max(10.0, float(torch.cat(expected).abs().max()))
    assert_close(found, torch.cat(expected), terms=6, depth=4, size=size)


def test_decoding_equals_the_whole_forward() -> None:
    model = tiny_model("short_conv")
    ids = torch.randint(0, 61, (19,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model.logits(model(ids, ForwardContext.packed([19])))
        cache, parts, at = SequenceCache(model.config), [], 0
        for piece in (1, 2, 9, 1, 6):
            context = ForwardContext.packed([piece], [at])
            parts.append(model.logits(model(ids[at : at + piece], context, [cache])))
            at += piece
    assert_model_close(model.config, torch.cat(parts), whole, 19)
