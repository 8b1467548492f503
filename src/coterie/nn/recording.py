"""A record of router choices and of layers' inputs and outputs, through `ForwardContext.recorder`.

T tokens, D width, E experts, K chosen experts per token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from coterie.nn.router import Routing


@dataclass(eq=False)
class Recorder:
    """The choices of each MoE layer in the last forward pass that carried this recorder, by layer index.

    `routing`: ids_TK, weights_TK and scores_TE. With `tensors`, also the input (T, D) of the router in
    `seen`, that of the experts in `inputs` (the same tensor, unless experts have norms), and the layer's
    result (T, D) with its shared expert in `outputs`. They are off by default because they keep the
    activations of all layers in memory. Nothing is detached.

        recorder = Recorder()
        model(ids_T, ForwardContext.packed([len(ids_T)], recorder=recorder))
        recorder.routing[layer].ids_TK
    """

    tensors: bool = False
    routing: dict[int, Routing] = field(default_factory=dict)
    seen: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)

    def note(self, layer: int, routing: Routing, seen_TD: Tensor, x_TD: Tensor, y_TD: Tensor) -> None:
        """Called by every MoE layer at the end of its forward pass."""
        self.routing[layer] = routing
        if self.tensors:
            self.seen[layer], self.inputs[layer], self.outputs[layer] = seen_TD, x_TD, y_TD

    def clear(self) -> None:
        """Forget all layers."""
        for found in (self.routing, self.seen, self.inputs, self.outputs):
            found.clear()

    def chosen(self, row: int) -> tuple[tuple[int, list[int], list[float]], ...]:
        """(layer, experts, their weights) of one token in each layer, best expert first.

        Experts of weight 0 are left out: a steered token may use fewer than K (`nn.router.Steer`).
        """
        layers = []
        for layer, routing in self.routing.items():
            pairs = zip(routing.ids_TK[row].tolist(), routing.weights_TK[row].tolist(), strict=True)
            kept = sorted(((expert, weight) for expert, weight in pairs if weight), key=lambda pair: -pair[1])
            layers.append((layer, [expert for expert, _ in kept], [weight for _, weight in kept]))
        return tuple(layers)
