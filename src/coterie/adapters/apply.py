"""Apply a stored adapter or expert patch to its base: in place, or as a second model that shares its weights.

A *variant* is the directory of either kind. Fresh adapters and subsets come from `attach.attach` and
`patch.attach_subset`.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import torch
from torch import nn

from coterie.adapters.attach import put_adapter, untie
from coterie.adapters.files import (
    AdapterFiles,
    adapter_base,
    check_adapter,
    check_adapter_base,
    is_adapter,
    layout_by_probes,
    read_adapter,
)
from coterie.adapters.own_templates import adopt_templates
from coterie.adapters.patch import Patch, apply_patches, check_patch_base, is_patch, patch_base, read_patch
from coterie.adapters.peft_layouts import Layout
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.locate import locate
from coterie.checkpoints.quantise import is_rounded
from coterie.config import ConfigError
from coterie.hub.names import HubName
from coterie.nn.chosen_experts import SubsetExpertLinear
from coterie.nn.experts import ExpertLinear
from coterie.nn.transformer import Transformer
from coterie.proof.judge import check_record
from coterie.text.tokenizer import Tokenizer

_log = logging.getLogger("coterie")


def is_variant(path: str | Path) -> bool:
    """Whether a path is the directory of an adapter or of an expert patch rather than a model's."""
    return is_adapter(path) or is_patch(path)


def find_variant(path: str | Path) -> Path:
    """The directory of an adapter or patch: a local one, or a hub id (`owner/name@revision`), fetched.

    Errors: `CheckpointError` when the hub does not deliver it.
    """
    local = Path(path).expanduser()
    return local if local.exists() or HubName.parse(str(path)) is None else locate(path)


def base_of(path: str | Path) -> str:
    """The base that an adapter's or patch's directory names. Errors: `CheckpointError` when it names none."""
    return patch_base(path) if is_patch(path) else adapter_base(path)


def open_variant(variant: str | Path | AdapterFiles | Patch) -> AdapterFiles | Patch:
    """Read and verify the directory of an adapter or patch; an opened one is returned as it is."""
    if isinstance(variant, AdapterFiles | Patch):
        return variant
    return read_patch(variant) if is_patch(variant) else read_adapter(variant)


def apply_in_place(
    model: Transformer,
    variant: str | Path | AdapterFiles | Patch,
    base: str | Path | Checkpoint | None = None,
    layout: Layout | None = None,
    check: bool = False,
) -> None:
    """Apply an adapter or expert patch to `model` itself.

    `base`: the checkpoint that `model` was read from. An adapter made for other weights is refused if `base`
    is given; a patch made for other weights is always refused. `layout`: assume this one for an adapter whose
    files do not state theirs; without it the stored probes decide. `check`: an adapter must also answer as it
    recorded; a patch is already proved by the hashes of its base and files.

    A model with the patch's experts attached (`attach_subset`) takes the slices into the trained parameters.
    Errors: `CheckpointError` or `ConfigError`, one line.
    """
    opened = open_variant(variant)
    origin = Checkpoint.open(base) if base is not None else None
    path = opened.path if isinstance(opened, AdapterFiles) else variant
    if origin is not None and isinstance(path, str | Path):
        adopt_templates(origin, path)
    if isinstance(opened, Patch):
        apply_patches(model, [opened])
        return
    if origin is not None:
        check_adapter_base(opened, origin)
    known = opened.layout(layout)
    if known is None:
        known = layout_by_probes(model, opened, origin.tokenizer if origin is not None else None)
    adapter = opened.adapter(model.config, known)
    put_adapter(model, adapter, opened.settings_in(model, adapter))
    if check:
        if origin is None:
            raise ConfigError(f"{opened.path}: to check an adapter, give the directory of its base")
        check_adapter(opened, model, origin)


def apply_shared(
    model: Transformer,
    variant: str | Path | AdapterFiles | Patch,
    base: str | Path | Checkpoint | None = None,
    tokenizer: Tokenizer | None = None,
) -> Transformer:
    """Another model with the adapter or expert patch applied; it shares the weights of `model`.

    `model` itself stays as it is. `base`: the checkpoint that `model` was read from. An adapter made for
    other weights is refused if `base` is given; a patch made for other weights is always refused. An adapter
    with stored probes must answer as it recorded. `tokenizer`: of the model, where it is loaded already.

    Errors: `CheckpointError` or `ConfigError`, one line.
    """
    if model.adapter is not None:
        raise ConfigError("adapter: the model has one already; load the base alone")
    opened = open_variant(variant)
    if isinstance(opened, Patch):
        return _with_patch(model, opened)
    return _with_adapter(model, opened, Checkpoint.open(base) if base is not None else None, tokenizer)


def _shadow(model: Transformer) -> Transformer:
    """Another object of the same layers whose parameters and buffers are those of `model`, not copies."""
    shared = [*model.parameters(), *model.buffers(), *model.carried.values()]
    # deepcopy looks tensors up in the memo first, so it returns those of `model` and copies only the modules.
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def _with_adapter(
    model: Transformer, files: AdapterFiles, base: Checkpoint | None, tokenizer: Tokenizer | None
) -> Transformer:
    if files.settings.quant != "none":
        raise ConfigError(
            f"{files.path}: was trained on a quantised base; merge it (coterie merge) and use the result"
        )
    if base is not None:
        check_adapter_base(files, base)
        tokenizer = tokenizer if tokenizer is not None else base.tokenizer
    known = files.layout()
    if known is None:
        # Trying layouts overwrites weights for a moment, so it needs its own copy: `model` may be serving.
        known = layout_by_probes(copy.deepcopy(model), files, tokenizer)
    adapter = files.adapter(model.config, known)
    result = _shadow(model)
    if adapter.unties:
        untie(result)
    for name in adapter.full:
        _unshare(result, name)
    put_adapter(result, adapter, files.settings_in(model, adapter))
    if is_rounded(model):
        _log.warning("%s: its stored answers are not checked: they are of unrounded weights", files.path)
    elif files.probes is not None:
        check_record(files.probes, result, tokenizer, files.path)
    return result.requires_grad_(False)


@torch.no_grad()
def _with_patch(model: Transformer, patch: Patch) -> Transformer:
    check_patch_base(model, patch)
    result = _shadow(model)
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
        # The layer keeps its subset in ascending order of experts.
        order = torch.tensor(sorted(range(len(chosen)), key=chosen.__getitem__))
        mine.copy_(tensor[order])
    return result.requires_grad_(False)


def _unshare(model: Transformer, name: str) -> None:
    """Replace one parameter or buffer of the model by a copy, so that writing to it leaves the base alone."""
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
