"""Expert patches: the chosen experts of a model, trained in full and stored separately from it.

A patch is a directory. `patch.safetensors` holds the new slices under our parameter names (experts as
`(S, out, in)`). `patch.json` states which experts they are, and a hash of the whole base, so that a patch is
only ever applied to the model it was made for. `coterie.json` lists both files with their hashes.
S chosen experts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from coterie.adapters.own_templates import other_templates
from coterie.checkpoints.commit import commit_directory, require_free, verify_directory
from coterie.checkpoints.locate import read_json
from coterie.checkpoints.quantise import quantised_parts
from coterie.checkpoints.tensor_reader import read_tensors
from coterie.config import CheckpointError, ConfigError, ExpertSelection
from coterie.config.files import write_json
from coterie.nn.chosen_experts import SubsetExpertLinear
from coterie.nn.experts import ExpertLinear
from coterie.nn.parameter_groups import Group, parameter_groups
from coterie.nn.transformer import Transformer
from coterie.text.template_sources import ChatTemplates, write_templates
from coterie.text.tokenizer import Tokenizer

TENSORS, ABOUT, FORMAT = "patch.safetensors", "patch.json", 1
_NON_EXPERT: tuple[Group, ...] = ("attention", "dense", "router", "norm", "embedding", "head")


@dataclass(frozen=True)
class BaseMark:
    """Hashes of a base: of its values as float32, and rounded to bfloat16. `dtype`: the type they were in."""

    exact: str
    rounded: str
    dtype: str

    def matches(self, other: BaseMark) -> bool:
        """Whether both are the same model, one of them possibly read in lower precision."""
        coarse = "bfloat16" in (self.dtype, other.dtype) and self.rounded == other.rounded
        return coarse or self.exact == other.exact


@dataclass(frozen=True)
class Patch:
    """A patch separate from its model. `origin`: the name of its base."""

    selection: ExpertSelection
    tensors: dict[str, Tensor]
    base: BaseMark
    family: str
    origin: str

    @property
    def num_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())

    def chosen(self, name: str) -> tuple[int, ...] | None:
        """The experts that tensor `name` holds, or None for a parameter replaced whole."""
        layer = name.split(".")[1] if name.startswith("blocks.") and ".ffn.experts." in name else None
        return None if layer is None else self.selection.experts[int(layer)]


@dataclass(frozen=True)
class Applied:
    """A patch applied to a model, with the values it replaced."""

    model: Transformer
    patch: Patch
    originals: dict[str, Tensor]

    def remove(self) -> None:
        """Put the base's values back, bit for bit."""
        _write(self.model, self.patch, self.originals)


def attach_subset(model: Transformer, selection: ExpertSelection) -> None:
    """Make exactly the selection trainable: chosen experts become separate parameters, all else is frozen.

    Errors: `ConfigError` for a selection that does not fit, a model with an adapter or a subset, or quantised
    experts.
    """
    selection.check(model.config)
    if model.adapter is not None or any(True for _ in subset_layers(model)):
        raise ConfigError(
            "experts: the model has an adapter or a subset already; merge it or load the base again"
        )
    model.requires_grad_(False)
    for layer, chosen in selection.experts.items():
        for name, module in list(model.blocks[layer].ffn.experts.named_children()):  # type: ignore[union-attr]
            if not isinstance(module, ExpertLinear):
                continue
            if type(module) is not ExpertLinear:
                raise ConfigError(
                    f"experts: those of layer {layer} are quantised; load the model without 'quant'"
                )
            model.set_submodule(f"blocks.{layer}.ffn.experts.{name}", SubsetExpertLinear(module, chosen))
    whole: tuple[Group, ...] = ("shared",) if selection.shared_experts else ()
    whole += _NON_EXPERT if selection.non_expert_modules else ()
    groups = parameter_groups(model)
    for name, parameter in model.named_parameters():
        if groups[name] in whole:
            parameter.requires_grad_(True)


def subset_layers(model: nn.Module) -> Iterator[tuple[str, SubsetExpertLinear]]:
    """(name, layer) of every layer with a trained subset, in the model's order."""
    for name, layer in model.named_modules():
        if isinstance(layer, SubsetExpertLinear):
            yield name, layer


def attached_selection(model: Transformer) -> ExpertSelection:
    """The selection given to `attach_subset`. Errors: `ConfigError` for a model without a subset."""
    experts = {int(name.split(".")[1]): layer.chosen for name, layer in subset_layers(model)}
    if not experts:
        raise ConfigError("experts: the model has no trained subset; call attach_subset first")
    groups = parameter_groups(model)
    trained = {groups[name] for name, parameter in model.named_parameters() if parameter.requires_grad}
    return ExpertSelection(
        experts=experts,
        shared_experts="shared" in trained,
        non_expert_modules=bool(trained & set(_NON_EXPERT)),
    )


def patch_tensors(model: Transformer) -> dict[str, Tensor]:
    """The tensors of this model's patch by name: trained slices of experts, then parameters trained whole."""
    tensors: dict[str, Tensor] = {}
    for name, layer in subset_layers(model):
        tensors[f"{name}.weight"] = layer.subset_weight.detach()
        if layer.subset_bias is not None:
            tensors[f"{name}.bias"] = layer.subset_bias.detach()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not _is_subset(name):
            tensors[name] = parameter.detach()
    return tensors


def base_mark(model: Transformer, without: Iterable[str] = ()) -> BaseMark:
    """Hashes of all parameters and selection biases of a model, except `without` and a trained subset."""
    left_out, hashes = set(without), (hashlib.sha256(), hashlib.sha256())
    own = dict(model.named_parameters())
    own |= {name: buffer for name, buffer in model.named_buffers() if name.endswith(".select_bias")}  # type: ignore[misc]
    for name in sorted(name for name in own if name not in left_out and not _is_subset(name)):
        tensor = own[name].detach().cpu()
        for digest in hashes:
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
        for part in tensor.unbind(0) if tensor.dim() == 3 else (tensor,):
            hashes[0].update(part.float().contiguous().numpy().data)
            hashes[1].update(part.to(torch.bfloat16).contiguous().view(torch.int16).numpy().data)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return BaseMark(hashes[0].hexdigest(), hashes[1].hexdigest(), dtype)


def save_patch(
    path: str | Path,
    model: Transformer,
    base: str | Path,
    tokenizer: Tokenizer | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Patch:
    """Write the trained subset of `model` (see `attach_subset`) as a patch. `base`: the name of its base.

    `tokenizer`: its chat templates are written too if they are not the base's. `extra`: further keys of the
    manifest.

    Errors: `ConfigError` without a subset, `CheckpointError` when it cannot be written or `path` holds
    something else.
    """
    selection, tensors = attached_selection(model), patch_tensors(model)
    whole = [name for name in tensors if ".ffn.experts." not in name]
    patch = Patch(selection, tensors, base_mark(model, whole), model.config.family, str(base))
    write_patch(Path(path), patch, other_templates(base, tokenizer), extra)
    return patch


def write_patch(
    path: Path,
    patch: Patch,
    templates: ChatTemplates | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the directory of a patch, committed by rename. `templates`: those it was tuned with.

    `extra`: further keys of the manifest.

    Errors: `CheckpointError` when `path` holds something that is not a patch, or cannot be written.
    """
    require_free(path, replaces=(ABOUT, "an expert patch"))
    about = {
        "format": FORMAT,
        "family": patch.family,
        "selection": patch.selection.to_dict(),
        "base": {"name": patch.origin, "sha256": patch.base.exact, "sha256_bfloat16": patch.base.rounded}
        | {"dtype": patch.base.dtype},
        "parameters": patch.num_parameters,
    }

    def write(directory: Path) -> None:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in patch.tensors.items()}
        save_file(tensors, directory / TENSORS, metadata={"format": "pt"})
        write_json(directory / ABOUT, about, indent=2)
        write_templates(directory, templates or ChatTemplates())

    commit_directory(path, write, {"kind": "patch", **(extra or {})})


def is_patch(path: str | Path) -> bool:
    """Whether a path is an expert patch's directory."""
    return (Path(path).expanduser() / ABOUT).is_file()


def patch_base(path: str | Path) -> str:
    """The base that a patch's directory names. Errors: `CheckpointError` for an unusable description."""
    about = Path(path).expanduser() / ABOUT
    try:
        return str(read_json(about)["base"]["name"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{about}: is not a usable description of a patch ({error})") from None


def read_patch(path: str | Path) -> Patch:
    """Read a patch, every file checked against its hash. Errors: `CheckpointError`, one line."""
    directory = Path(path).expanduser()
    if not (directory / ABOUT).is_file():
        raise CheckpointError(f"{directory}: has no {ABOUT}; give the directory of an expert patch")
    verify_directory(directory)
    about = read_json(directory / ABOUT)
    try:
        if about["format"] != FORMAT:
            raise CheckpointError(
                f"{directory}: is a patch of format {about['format']}, this version reads {FORMAT}"
            )
        base = about["base"]
        texts = (*(base[key] for key in ("sha256", "sha256_bfloat16", "dtype", "name")), about["family"])
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is something else")
        mark = BaseMark(base["sha256"], base["sha256_bfloat16"], base["dtype"])
        selection = ExpertSelection.from_dict(about["selection"], str(directory / ABOUT))
        return Patch(selection, read_tensors(directory / TENSORS), mark, about["family"], base["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{directory / ABOUT}: is not a usable description of a patch ({error})"
        ) from None


def apply_patches(model: Transformer, patches: Sequence[Patch]) -> list[Applied]:
    """Apply several patches of one base in memory; all are checked before any is applied.

    A model with the same subset attached takes the slices into the trained parameters. Errors:
    `CheckpointError` when the model is not a patch's base, or patches overlap; `ConfigError` for another
    subset.
    """
    seen: set[tuple[str, int | None]] = set()
    for patch in patches:
        check_patch_base(model, patch)
        places = {(name, expert) for name in patch.tensors for expert in patch.chosen(name) or (None,)}
        if places & seen:
            name, expert = sorted(places & seen, key=str)[0]
            which = "" if expert is None else f" of expert {expert}"
            raise CheckpointError(f"patches: two of them replace '{name}'{which}; apply one of them")
        seen |= places
    applied = []
    for patch in patches:
        originals = {name: _read(model, patch, name) for name in patch.tensors}
        applied.append(Applied(model, patch, originals))
        _write(model, patch, patch.tensors)
    return applied


def check_patch_base(model: Transformer, patch: Patch) -> None:
    """Refuse a model that the patch was not made for. Errors: `CheckpointError`."""
    try:
        patch.selection.check(model.config)
    except ConfigError as error:
        why = str(error).split(";")[0]
        raise CheckpointError(
            f"this model is not the base of the patch (made for {patch.origin}; {why}); give that base"
        ) from None
    own = dict(model.named_parameters())
    for name, tensor in patch.tensors.items():
        chosen = patch.chosen(name)
        expected = (
            None
            if name not in own
            else own[name].shape
            if chosen is None
            else (len(chosen), *own[name].shape[1:])
        )
        if name in quantised_parts(model):
            raise ConfigError(
                f"patch of {patch.origin}: '{name}' is in codes here; load the base with quant none"
            )
        if expected is None or tuple(expected) != tuple(tensor.shape):
            raise CheckpointError(
                f"patch of {patch.origin}: '{name}' {tuple(tensor.shape)} does not fit this model"
            )
    found = base_mark(model, [name for name in patch.tensors if patch.chosen(name) is None])
    if not patch.base.matches(found):
        raise CheckpointError(
            f"this model is not the base of the patch (made for {patch.origin}, its weights hash to "
            f"{patch.base.exact[:12]}, these to {found.exact[:12]}); give that base"
        )


def _is_subset(name: str) -> bool:
    return name.rpartition(".")[2].startswith("subset_")


def _target(model: Transformer, patch: Patch, name: str) -> tuple[Tensor, Tensor | None]:
    """The tensor that holds the values of `name`, and the indices in it (None: all of it)."""
    chosen = patch.chosen(name)
    parameter = model.get_parameter(name)
    if chosen is None:
        return parameter, None
    prefix, _, kind = name.rpartition(".")
    layer = model.get_submodule(prefix)
    if isinstance(layer, SubsetExpertLinear):
        if layer.chosen != chosen:
            raise ConfigError(
                f"experts: {prefix} has other experts attached than the patch; attach its selection"
            )
        return layer.get_parameter(f"subset_{kind}"), None
    return parameter, torch.tensor(chosen, device=parameter.device)


@torch.no_grad()
def _read(model: Transformer, patch: Patch, name: str) -> Tensor:
    target, index = _target(model, patch, name)
    return target.detach().clone() if index is None else target.detach()[index]


@torch.no_grad()
def _write(model: Transformer, patch: Patch, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        target, index = _target(model, patch, name)
        values = tensor.to(target.device, target.dtype)
        if index is None:
            target.copy_(values)
        else:
            target[index] = values
