"""From a mixture of experts to a dense model.

Experts that are copies of one feed-forward, as upcycling makes them, give it back exactly: the weights of a
token's experts sum to 1, so the router plays no part. A layer whose experts differ is fitted to what its
inner units do on real tokens. Every inner unit j of every expert contributes `a_j = gate weight * h_j` to a
token (0 where its expert was not chosen); in a dense layer it contributes `h_j` always. The units that
explain most of the contributions are kept, and `down` is fitted to the mixture's own output by ridge
regression. T tokens, D width, U units kept, F expert width.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from coterie.config import ConfigError, FeedForwardConfig, ModelConfig
from coterie.families import dense_forms
from coterie.nn.kernels.swiglu import activated, gated
from coterie.nn.moe import FeedForward, MoE
from coterie.nn.transformer import Transformer
from coterie.surgery.arguments import check_densify
from coterie.surgery.common import (
    Layer,
    LayerSeen,
    LayerwiseResult,
    Sequences,
    blank,
    finished,
    moe_layers,
    require_plain,
    rows_of_expert,
    watch,
)
from coterie.surgery.configs import changed

RIDGE = 1e-2
CHOOSING_TOKENS = 5_000  # what a unit contributes is a mean over tokens, which fewer tell than the regression
_BLOCKS = 8  # of the symmetric matrix H^T H, of which only the blocks on and above the diagonal are computed


def densify(model: Transformer, sequences: Sequences, width: int | None = None) -> Transformer:
    """`densifying`, in memory."""
    return densifying(model, sequences, width).in_memory()


def densifying(model: Transformer, sequences: Sequences, width: int | None = None) -> LayerwiseResult:
    """A dense model whose feed-forwards have `width` inner units.

    Default: those of the one feed-forward that all experts are copies of, where they are, else as many as one
    token uses, and at least those of the dense layers. Layers with fewer are filled up with units that do
    nothing.
    `details`: the layers that are exact, and the share of the mixture's output that is lost in the others.
    Errors: `ConfigError` for a dense model, biased experts, a width that is too large or too small, or a
    family without a dense form.
    """
    check_densify(model.config, width)
    require_plain(model)
    layers = dict(moe_layers(model, "densify"))
    parts = {layer: _parts(moe) for layer, moe in layers.items()}
    if width is None:
        plain = [ffn.width for b in model.config.blocks if isinstance(ffn := b.ffn, FeedForwardConfig)]
        own = [_own_width(moe, parts[layer], all(parts.values())) for layer, moe in layers.items()]
        width = max(own + plain)
    first = next(iter(layers.values())).config
    dense = FeedForwardConfig(width=width, activation=first.activation, gated=first.gated)
    config = _dense_config(model.config, dense)
    exact = {
        layer: num for layer, num in parts.items() if num and num * layers[layer].config.expert_width <= width
    }
    details: dict[str, Any] = {"exact_layers": list(exact), "lost_share": {}}

    @torch.no_grad()
    def made(layer: int, old: Layer | None, seen: list[LayerSeen]) -> Layer | None:
        if old is None:
            return None
        new = blank(model, config, layer)
        assert isinstance(new, FeedForward)
        if not isinstance(old, MoE):
            _write_padded(new, _matrices(old))
        elif layer in exact:
            _write_padded(new, _joined(old, exact[layer]))
        else:
            details["lost_share"][str(layer)] = _write_fitted(new, old, seen, width)
        return finished(new)

    text = sequences if len(exact) < len(layers) else None
    return LayerwiseResult(model, config, itertools.starmap(made, watch(model, text)), details)


def _dense_config(config: ModelConfig, dense: FeedForwardConfig) -> ModelConfig:
    reasons = []
    for target in dense_forms(config.family) or (config.family,):
        try:
            return changed(config, lambda _layer, _ffn: dense, target)
        except ConfigError as error:
            reasons.append(
                f"densify: no dense {target} checkpoint can carry this {config.family} model ({error})"
            )
    raise ConfigError(reasons[0])


def _own_width(moe: MoE, parts: int | None, exact: bool) -> int:
    """The inner units of a layer: of the feed-forward that it is made of, or those that a token uses."""
    config = moe.config
    if exact and parts:
        return parts * config.expert_width
    return config.router.top_k * config.expert_width + (config.shared_width or 0)


@torch.no_grad()
def _parts(moe: MoE) -> int | None:
    """How many experts make up the one feed-forward that all experts are copies of; None where they differ.

    1: every expert is the whole. More: each of the first `G` experts holds a part, the others repeat them,
    and a token always gets whole copies, because the parts of a copy share their row in the router.
    """
    router = moe.config.router
    sums_to_one = router.renormalize or (router.score == "softmax" and router.score_after_topk)
    if not sums_to_one or router.scale != 1 or router.expert_scale or router.apply_to == "input":
        return None
    matrices = [layer.effective_weight() for layer in (moe.experts.first, moe.experts.down)]
    rows = (moe.router.effective_weight(), moe.router.bias, moe.router.select_bias)
    for parts in range(1, router.top_k + 1):
        if router.num_experts % parts or router.top_k % parts or (parts > 1 and router.num_groups > 1):
            continue
        if all(_repeats(matrix, parts) for matrix in matrices) and (
            parts == 1 or all(row is None or _in_runs(row, parts) for row in rows)
        ):
            return parts if moe.shared is None or _shares_units(moe, parts) else None
    return None


def _shares_units(moe: MoE, parts: int) -> bool:
    """Whether the shared expert has the inner units of the first `parts` experts, at constant weight."""
    assert moe.shared is not None
    shared = _matrices(moe.shared)
    same = all(torch.equal(shared[name], inner) for name, inner in _inner(moe, parts).items())
    return same and (moe.shared_gate is None or not bool(moe.shared_gate.weight.any()))


def _repeats(matrix_E: Tensor, period: int) -> bool:
    return all(torch.equal(matrix_E[e], matrix_E[e % period]) for e in range(period, len(matrix_E)))


def _in_runs(row_E: Tensor, length: int) -> bool:
    return all(torch.equal(row_E[e], row_E[e - e % length]) for e in range(len(row_E)))


def _matrices(ffn: FeedForward) -> dict[str, Tensor]:
    """gate where there is one, up (U, D) and down (D, U)."""
    parts = {"gate": ffn.gate, "up": ffn.up, "down": ffn.down}
    return {name: part.weight for name, part in parts.items() if part is not None}


def _joined(moe: MoE, parts: int) -> dict[str, Tensor]:
    """gate and up (U, D) and down (D, U) of the feed-forward that the first `parts` experts make up.

    Upcycling multiplied `down` by their number, which a power of two does exactly.
    """
    down = moe.experts.down.effective_weight()[:parts].transpose(0, 1).flatten(1) / parts
    if moe.shared is not None:  # a gate of zeros lets half through
        down = down + moe.shared.down.weight * (1.0 if moe.shared_gate is None else 0.5)
    return _inner(moe, parts) | {"down": down}


def _inner(moe: MoE, parts: int | None = None) -> dict[str, Tensor]:
    """gate where there is one, and up (U, D), of the first `parts` experts (None: all)."""
    pieces = moe.experts.first.effective_weight()[:parts].split(moe.config.expert_width, dim=1)
    names = ("gate", "up") if moe.config.gated else ("up",)
    return {name: piece.flatten(0, 1) for name, piece in zip(names, pieces, strict=True)}


class _Units:
    """The inner units of one layer: `gate` (if any), `up` (U, D), `down` (D, U); the shared expert's last."""

    def __init__(self, moe: MoE) -> None:
        self.activation = moe.config.activation
        routed = _inner(moe) | {"down": moe.experts.down.effective_weight().transpose(0, 1).flatten(1)}
        parts = [routed] if moe.shared is None else [routed, _matrices(moe.shared)]
        joined = {
            name: torch.cat([part[name].float() for part in parts], dim=1 if name == "down" else 0)
            for name in routed
        }
        self.gate, self.up, self.down = joined.get("gate"), joined["up"], joined["down"]

    @property
    def reading(self) -> dict[str, Tensor]:
        """`gate` (if any) and `up`."""
        return {"up": self.up} | ({} if self.gate is None else {"gate": self.gate})

    def keep(self, index_U: Tensor, scale_U: Tensor) -> None:
        """Drop all other units; multiply the `down` columns of these by `scale_U`."""
        self.gate, self.up = None if self.gate is None else self.gate[index_U], self.up[index_U]
        self.down = self.down[:, index_U] * scale_U

    def hidden(self, x_TD: Tensor, part: slice = slice(None)) -> Tensor:
        """`(T, U)`: the value of every unit, or of those in `part`, for every token."""
        up_TU = x_TD.float() @ self.up[part].T
        if self.gate is None:
            return activated(up_TU, self.activation)
        return gated(x_TD.float() @ self.gate[part].T, up_TU, self.activation)


def _choose_units(moe: MoE, seen: list[LayerSeen], width: int) -> _Units:
    """The `width` units, or all, that explain most of what the units contributed to the tokens."""
    units = _Units(moe)
    joint_U, square_U = torch.zeros(2, len(units.up), dtype=torch.float64, device=units.up.device)
    step = max(1, sum(len(part.x_TD) for part in seen) // CHOOSING_TOKENS)
    for part in seen[::step]:
        hidden_TU = units.hidden(part.x_TD)
        said_TU = _contributions(moe, units, hidden_TU, part)
        joint_U += (said_TU * hidden_TU).sum(0)
        square_U += hidden_TU.square().sum(0)
    scale_U = joint_U / square_U.clamp_min(1e-30)
    explained_U = scale_U * joint_U * units.down.double().square().sum(0)
    index_U = explained_U.topk(min(width, len(explained_U))).indices.sort().values
    units.keep(index_U, scale_U[index_U].float())
    return units


def _contributions(moe: MoE, units: _Units, hidden_TU: Tensor, seen: LayerSeen) -> Tensor:
    """`(T, U)`: what each unit added for each token in the mixture, before `down`."""
    width, x_TD, routing = moe.config.expert_width, seen.x_TD, seen.routing
    said_TU = torch.zeros_like(hidden_TU)
    for expert in range(moe.config.router.num_experts):
        rows, weights = rows_of_expert(routing, expert)
        part = slice(expert * width, (expert + 1) * width)
        if moe.config.router.apply_to == "input":
            read = x_TD[rows].float() * weights[:, None]
            said_TU[rows, part] = units.hidden(read, part)
        else:
            said_TU[rows, part] = hidden_TU[rows, part] * weights[:, None]
    shared = moe.config.router.num_experts * width
    said_TU[:, shared:] = hidden_TU[:, shared:]
    if moe.shared_gate is not None:
        said_TU[:, shared:] *= moe.shared_gate(x_TD).float().sigmoid()
    return said_TU


def _regression(units: _Units, seen: list[LayerSeen]) -> tuple[Tensor, Tensor, float]:
    """H^T H and H^T Y for the units' values H (T, U) and the mixture's output Y (T, D), and |Y|^2.

    Products and their sums are in float32: the ridge is far larger than the rounding.
    """
    size, device = len(units.up), units.up.device
    gram_UU = torch.zeros(size, size, device=device)
    joint_UD = torch.zeros(size, units.up.shape[1], dtype=torch.float64, device=device)
    total = 0.0
    step = -(-size // _BLOCKS)
    for x_TD, _, y_TD, _ in seen:
        hidden_TU = units.hidden(x_TD)
        for at in range(0, size, step):
            gram_UU[at : at + step, at:].addmm_(hidden_TU[:, at : at + step].T, hidden_TU[:, at:])
        joint_UD += hidden_TU.T @ y_TD.float()
        total += float(y_TD.double().square().sum())
    gram_UU = gram_UU.double().triu_()
    gram_UU += gram_UU.triu(1).T
    return gram_UU, joint_UD, total


def _write_fitted(ffn: FeedForward, moe: MoE, seen: list[LayerSeen], width: int) -> float:
    """Write the units that matter most, `down` fitted by ridge towards their scaled original columns.

    Returns the share of the mixture's output, squared, that the fit misses on the tokens seen.
    """
    units = _choose_units(moe, seen, width)
    gram_UU, joint_UD, total = _regression(units, seen)
    ridge = float(RIDGE * gram_UU.diagonal().mean().clamp_min(1e-30))
    gram_UU.diagonal().add_(ridge)
    prior_UD = ridge * units.down.T.double()
    fitted_UD = torch.cholesky_solve(joint_UD + prior_UD, torch.linalg.cholesky(gram_UU))
    _write_padded(ffn, units.reading | {"down": fitted_UD.T})
    # |Y - H W|^2, with H^T H W from the equation that W solves
    explained = (fitted_UD * (joint_UD - prior_UD + ridge * fitted_UD)).sum()
    return max(0.0, 1.0 - float(explained) / max(total, 1e-30))


def _write_padded(ffn: FeedForward, matrices: dict[str, Tensor]) -> None:
    """Write gate, up (U, D) and down (D, U); all further units do nothing."""
    for name, weight in _matrices(ffn).items():
        rows, columns = matrices[name].shape
        weight.zero_()
        weight[:rows, :columns] = matrices[name]
