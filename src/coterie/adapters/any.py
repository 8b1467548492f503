"""An adapter or an expert patch, whichever a directory holds, put on its base: in place, or as a second model
that shares the first one's weights.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from coterie.adapters.attach import put_adapter
from coterie.adapters.files import base_of as base_of_adapter
from coterie.adapters.files import check_adapter, is_adapter, layout_by_probes, load_adapter, read_adapter
from coterie.adapters.files import check_base as check_adapter_base
from coterie.adapters.patch import Patch, check_base, is_patch, load_patch, read_patch
from coterie.config import ConfigError
from coterie.nn.chosen_experts import SubsetExpertLinear
from coterie.nn.experts import ExpertLinear
from coterie.nn.transformer import Transformer
from coterie.proof.records import check_probes, load_probes
from coterie.text.tokenizer import Tokenizer


def is_variant(path: str | Path) -> bool:
    """Whether a path is the directory of an adapter or of an expert patch rather than a model's."""
    return is_adapter(path) or is_patch(path)


def base_of(path: str | Path) -> str:
    """The base that the directory of an adapter or patch names. Errors: `CheckpointError` when it names
    none.
    """
    return read_patch(path).origin if is_patch(path) else base_of_adapter(path)


def put_variant(
    model: Transformer,
    path: str | Path,
    base: str | Path | None = None,
    tokenizer: Tokenizer | None = None,
    check: bool = False,
) -> None:
    """Put the adapter or expert patch of a directory on `model` itself.

    `base`: the directory that `model` was read from; an adapter made for other weights is refused, a patch
    always is. `check`: an adapter must also answer as it recorded; a patch has proved itself by the hashes of
    its base and files. Errors: `CheckpointError` or `ConfigError`, one line.
    """
    if is_patch(path):
        load_patch(model, path)
        return
    load_adapter(model, path, base, tokenizer=tokenizer)
    if check:
        if base is None:
            raise ConfigError(f"{path}: to check an adapter, give the directory of its base")
        check_adapter(path, model, base, tokenizer)


def shadow(model: Transformer) -> Transformer:
    """Another object of the same layers whose parameters and buffers are those of `model`, not copies."""
    shared = [*model.parameters(), *model.buffers(), *model.carried.values()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def load_variant(
    model: Transformer, path: str | Path, base: str | Path | None = None, tokenizer: Tokenizer | None = None
) -> Transformer:
    """`model` with the adapter or expert patch of a directory; `model` itself stays as it is.

    `base`: the directory that `model` was read from; an adapter made for other weights is refused, a patch
    always is. Where an adapter has stored probes the result must answer as they say. Errors:
    `CheckpointError` or `ConfigError`, one line.
    """
    if model.adapter is not None:
        raise ConfigError("adapter: the model has one already; load the base alone")
    return (
        _with_patch(model, read_patch(path))
        if is_patch(path)
        else _with_adapter(model, path, base, tokenizer)
    )


def _with_adapter(
    model: Transformer, path: str | Path, base: str | Path | None, tokenizer: Tokenizer | None
) -> Transformer:
    files = read_adapter(path)
    if files.settings.quant != "none":
        raise ConfigError(
            f"{path}: was trained on a quantised base; merge it (coterie merge) and serve the result"
        )
    if base is not None:
        check_adapter_base(files, Path(base), model.config)
    known = files.layout()
    if known is None:
        # Trying layouts writes whole weights for a moment: on a copy of its own.
        known = layout_by_probes(copy.deepcopy(model), files, tokenizer)
    adapter = files.adapter(model.config, known)
    result = shadow(model)
    for name in adapter.full:
        _unshare(result, name)
    put_adapter(result, adapter, files.settings)
    if load_probes(files.path) is not None:
        check_probes(files.path, result, tokenizer)
    return result.requires_grad_(False)


@torch.no_grad()
def _with_patch(model: Transformer, patch: Patch) -> Transformer:
    check_base(model, patch)
    result = shadow(model)
    for name, tensor in patch.tensors.items():
        chosen = patch.chosen(name)
        if chosen is None:
            _unshare(result, name)
            own = dict(result.named_parameters()) | dict(result.named_buffers())
            own[name].copy_(tensor)
            continue
        layer_name, _, what = name.rpartition(".")
        layer = result.get_submodule(layer_name)
        assert isinstance(layer, ExpertLinear)
        if not isinstance(layer, SubsetExpertLinear):
            layer = SubsetExpertLinear(layer, chosen)
            result.set_submodule(layer_name, layer)
        mine = layer.subset_weight if what == "weight" else layer.subset_bias
        assert mine is not None
        order = torch.tensor(sorted(range(len(chosen)), key=chosen.__getitem__))
        mine.copy_(tensor[order])
    return result.requires_grad_(False)


def _unshare(model: Transformer, name: str) -> None:
    """Give one parameter or buffer of the model memory of its own."""
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    if last in module._parameters:
        parameter = module._parameters[last]
        assert parameter is not None
        module._parameters[last] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
    elif last in module._buffers:
        buffer = module._buffers[last]
        assert buffer is not None
        module._buffers[last] = buffer.clone()
