"""Routing shares count the routers' choices."""

from __future__ import annotations

import numpy as np
import torch

from coterie.evaluate.routing.shares import routing_shares
from coterie.nn.forward_context import ForwardContext
from tests.evaluate.support import documents, make


def test_routing_shares_count_the_choices() -> None:
    model, texts = make(), documents(6)
    shares = routing_shares(model, texts, row_length=16)
    assert shares.layers == [0, 1] and shares.slices == ["a", "b"] and shares.top_k == 2
    array = np.array(shares.share)
    assert array.shape == (2, 2, 4)
    np.testing.assert_allclose(array.sum(-1), 1.0)
    ids = torch.cat([torch.from_numpy(d.ids) for d in texts if d.slice == "b"])
    lengths = [min(16, len(d.ids) - at) for d in texts if d.slice == "b" for at in range(0, len(d.ids), 16)]
    seen = []
    model.routers()[0][1].register_forward_hook(lambda module, inputs, routing: seen.append(routing.ids_TK))
    with torch.no_grad():
        model(ids, ForwardContext.packed(lengths))
    counts = np.bincount(seen[0].flatten().numpy(), minlength=4)
    np.testing.assert_allclose(array[0, 1], counts / counts.sum())
