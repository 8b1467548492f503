"""From a mixture of experts to a dense model, starting from what the experts' inner units do on real tokens.

Every inner unit j of every expert contributes `a_j = gate weight * h_j` to a token (0 where its expert was
not chosen); in a dense layer it contributes `h_j` always. The units that explain most of the contributions
are kept, and `down` is fitted to the mixture's own output by ridge regression. T tokens, D width, U units
kept, F expert width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.config import ConfigError, FeedForwardConfig, ModelConfig
from coterie.families import family
from coterie.nn.kernels.swiglu import gated
from coterie.nn.moe import FeedForward, MoE
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer
from coterie.surgery.arguments import check_densify
from coterie.surgery.common import Sequences, changed, finished, moe_layers, rebuilt, rows_of_expert, watch

RIDGE = 1e-2


def densify(model: Transformer, sequences: Sequences, width: int | None = None) -> Transformer:
    """A dense model whose feed-forwards have `width` inner units (default: as many as one token uses).

    Dense layers of the original are kept, filled up to `width` with units that do nothing.
    Errors: `ConfigError` for a dense model, biased experts, a width that is too large or too small, or a
    family without a dense form.
    """
    check_densify(model.config)
    layers = dict(moe_layers(model, "densify"))
    if width is None:
        width = max(
            m.config.router.top_k * m.config.expert_width + (m.config.shared_width or 0)
            for m in layers.values()
        )
    check_densify(model.config, width)
    dense = FeedForwardConfig(width=width, activation=next(iter(layers.values())).config.activation)
    new = rebuilt(model, _dense_config(model.config, dense))
    units = _choose_units(model, layers, sequences, width)
    grams = _regression(model, units, sequences)
    for layer, block in enumerate(new.blocks):
        old, ffn = model.blocks[layer].ffn, block.ffn
        assert isinstance(ffn, FeedForward)
        if isinstance(old, MoE):
            _write_fitted(ffn, units[layer], *grams[layer])
        else:
            assert isinstance(old, FeedForward)
            _write_padded(ffn, old)
    return finished(new)


def _dense_config(config: ModelConfig, dense: FeedForwardConfig) -> ModelConfig:
    target = family(config.family).dense or config.family
    try:
        return changed(config, lambda _layer, _ffn: dense, target)
    except ConfigError as error:
        raise ConfigError(
            f"densify: no dense {target} checkpoint can carry this {config.family} model ({error})"
        ) from None


class _Units:
    """The inner units of one layer: `gate`, `up` (U, D), `down` (D, U); the shared expert's last."""

    def __init__(self, moe: MoE) -> None:
        self.activation = moe.config.activation
        width = moe.config.expert_width
        gate_up, down = (
            moe.experts.gate_up.effective_weight().float(),
            moe.experts.down.effective_weight().float(),
        )
        parts = [
            (
                gate_up[:, :width].flatten(0, 1),
                gate_up[:, width:].flatten(0, 1),
                down.transpose(0, 1).flatten(1),
            )
        ]
        if moe.shared is not None:
            parts.append((moe.shared.gate.weight, moe.shared.up.weight, moe.shared.down.weight))
        self.gate, self.up = (torch.cat([part[i].float() for part in parts]) for i in range(2))
        self.down = torch.cat([part[2].float() for part in parts], dim=1)

    def keep(self, index_U: Tensor, scale_U: Tensor) -> None:
        """Drop all other units; multiply the `down` columns of these by `scale_U`."""
        self.gate, self.up = self.gate[index_U], self.up[index_U]
        self.down = self.down[:, index_U] * scale_U

    def hidden(self, x_TD: Tensor) -> Tensor:
        """`(T, U)`: the value of every unit for every token."""
        return gated(x_TD.float() @ self.gate.T, x_TD.float() @ self.up.T, self.activation)


@torch.no_grad()
def _choose_units(
    model: Transformer, layers: dict[int, MoE], sequences: Sequences, width: int
) -> dict[int, _Units]:
    units = {layer: _Units(moe) for layer, moe in layers.items()}
    sums = {layer: torch.zeros(2, len(u.gate), dtype=torch.float64) for layer, u in units.items()}
    for seen in watch(model, sequences):
        for layer, x_TD in seen.inputs.items():
            hidden_TU = units[layer].hidden(x_TD)
            said_TU = _contributions(layers[layer], units[layer], hidden_TU, x_TD, seen.routing[layer])
            sums[layer][0] += (said_TU * hidden_TU).double().sum(0).cpu()
            sums[layer][1] += hidden_TU.double().square().sum(0).cpu()
    for layer, (joint_U, square_U) in sums.items():
        scale_U = joint_U / square_U.clamp_min(1e-30)
        explained_U = scale_U * joint_U * units[layer].down.double().square().sum(0).cpu()
        index_U = explained_U.topk(width).indices.sort().values
        device = units[layer].gate.device
        units[layer].keep(index_U.to(device), scale_U[index_U].float().to(device))
    return units


def _contributions(moe: MoE, units: _Units, hidden_TU: Tensor, x_TD: Tensor, routing: Routing) -> Tensor:
    """`(T, U)`: what each unit added for each token in the mixture, before `down`."""
    width = moe.config.expert_width
    said_TU = torch.zeros_like(hidden_TU)
    for expert in range(moe.config.router.num_experts):
        rows, weights = rows_of_expert(routing, expert)
        part = slice(expert * width, (expert + 1) * width)
        if moe.config.router.apply_to == "input":
            read = x_TD[rows].float() * weights[:, None]
            gate, up = read @ units.gate[part].T, read @ units.up[part].T
            said_TU[rows, part] = gated(gate, up, units.activation)
        else:
            said_TU[rows, part] = hidden_TU[rows, part] * weights[:, None]
    shared = moe.config.router.num_experts * width
    said_TU[:, shared:] = hidden_TU[:, shared:]
    if moe.shared_gate is not None:
        said_TU[:, shared:] *= moe.shared_gate(x_TD).float().sigmoid()
    return said_TU


@torch.no_grad()
def _regression(
    model: Transformer, units: dict[int, _Units], sequences: Sequences
) -> dict[int, tuple[Tensor, Tensor]]:
    """Layer -> (H^T H, H^T Y) for the kept units' values H (T, U) and the mixture's output Y (T, D)."""
    sums: dict[int, tuple[Tensor, Tensor]] = {}
    for seen in watch(model, sequences):
        for layer, x_TD in seen.inputs.items():
            hidden_TU = units[layer].hidden(x_TD).double()
            before = sums.get(layer, (0.0, 0.0))
            joint_UD = hidden_TU.T @ seen.outputs[layer].double()
            sums[layer] = (before[0] + hidden_TU.T @ hidden_TU, before[1] + joint_UD)
    return sums


@torch.no_grad()
def _write_fitted(ffn: FeedForward, units: _Units, gram_UU: Tensor, joint_UD: Tensor) -> None:
    """Write the kept units, `down` fitted by ridge regression towards their scaled original columns."""
    ridge = RIDGE * gram_UU.diagonal().mean()
    left = gram_UU + ridge * torch.eye(len(gram_UU), dtype=gram_UU.dtype, device=gram_UU.device)
    fitted_UD = torch.linalg.solve(left, joint_UD + ridge * units.down.T.double())
    ffn.gate.weight.copy_(units.gate)
    ffn.up.weight.copy_(units.up)
    ffn.down.weight.copy_(fitted_UD.T)


@torch.no_grad()
def _write_padded(ffn: FeedForward, old: FeedForward) -> None:
    size = old.gate.weight.shape[0]
    for part in (ffn.gate, ffn.up, ffn.down):
        part.weight.zero_()
    ffn.gate.weight[:size] = old.gate.weight
    ffn.up.weight[:size] = old.up.weight
    ffn.down.weight[:, :size] = old.down.weight
