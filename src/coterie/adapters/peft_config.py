"""What the fields of PEFT's `adapter_config.json` mean to a reader: used, without effect, or refused by name.

The two sets below hold the fields of PEFT 0.21 that a reader may pass by. Any other field, of this or a later
version, is refused when it is set, because what it changes would be lost in silence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from coterie.adapters.peft_names import Names
from coterie.adapters.peft_settings import check_settings_types
from coterie.config import CheckpointError

FOREIGN = "COTERIE"  # a peft_type that PEFT refuses to load

# Read from the file, or seen in its tensors and checked against them.
USED = frozenset(
    "peft_type base_model_name_or_path peft_version r lora_alpha rank_pattern alpha_pattern use_rslora "
    "use_dora target_modules target_parameters exclude_modules layers_to_transform layers_pattern "
    "modules_to_save ensure_weight_tying lora_dropout init_lora_weights bias".split()
)
# They describe the file, or act before the first step, or only while PEFT trains or runs.
WITHOUT_EFFECT = frozenset(
    "task_type auto_mapping revision inference_mode loftq_config eva_config corda_config lora_ga_config "
    "runtime_config megatron_core qalora_group_size".split()
)
_STARTS = ("gaussian", "orthogonal", "eva", "mica")  # others change the weights of the base


def check_settings(data: Mapping[str, Any], where: str) -> None:
    """Refuse settings that change the model in a way that cannot be read.

    `where`: the adapter's directory. Errors: `CheckpointError` naming the field.
    """
    check_settings_types(data, where)
    if data.get("peft_type") not in ("LORA", FOREIGN):
        raise CheckpointError(
            f"{where}: is a {str(data.get('peft_type'))[:60]} adapter; only LORA can be read"
        )
    used = [key for key, value in data.items() if value and key not in USED | WITHOUT_EFFECT]
    start = data.get("init_lora_weights", True)
    if isinstance(start, str) and start not in _STARTS:
        used.append(f"init_lora_weights={start}")
    if data.get("bias", "none") != "none":
        used.append(f"bias={data['bias']}")
    if used:
        raise CheckpointError(f"{where}: uses '{used[0]}', which cannot be read; merge it with PEFT first")


def check_tensors(data: Mapping[str, Any], keys: Collection[str], names: Names, where: str) -> None:
    """The tensors must be those that the config announces: none missing, none that PEFT would not use.

    `keys`: without PEFT's prefix. Errors: `CheckpointError` naming the field.
    """
    if embedded := next((key for key in keys if "lora_embedding_" in key), None):
        module = embedded.split(".lora_embedding_")[0]
        raise CheckpointError(
            f"{where}: its target_modules reach '{module}'; factors on an embedding cannot be read, so merge "
            "it with PEFT first"
        )
    if any(".lora_magnitude_vector" in key for key in keys) != bool(data.get("use_dora")):
        raise CheckpointError(f"{where}: 'use_dora' is {data.get('use_dora')}, and its tensors say otherwise")
    for module in data.get("modules_to_save") or ():
        if not any(_within(key, module) for key in keys):
            raise CheckpointError(f"{where}: modules_to_save names '{module}', and its file lacks it")
    for path in _announced(data, names):
        if f"{path}.lora_A.weight" not in keys:
            raise CheckpointError(
                f"{where}: its target_modules reach '{path}', and its file holds no factors for it; fetch "
                "the adapter again"
            )


def unties(data: Mapping[str, Any], tensors: Mapping[str, Tensor], embedding: str) -> bool:
    """Whether a model whose head is its embedding has two different matrices with this adapter.

    PEFT copies each module of `modules_to_save`, and factors on the head leave the embedding
    alone. `tensors`: without PEFT's prefix. `embedding`: the key of its weight.
    """
    if any(key.startswith("lm_head.lora_") for key in tensors):
        return True
    embed, head = tensors.get(embedding), tensors.get("lm_head.weight")
    if head is None:
        return embed is not None and not data.get("ensure_weight_tying")
    return embed is None or not torch.equal(embed, head)


def _announced(data: Mapping[str, Any], names: Names) -> list[str]:
    """Linear layers that PEFT would adapt by `target_modules`.

    Feed-forward layers of a mixture are left out: PEFT takes their names for those of experts.
    """
    targets, layers = data.get("target_modules"), data.get("layers_to_transform")
    if not targets or targets == "all-linear" or data.get("layers_pattern"):
        return []
    layers = [layers] if isinstance(layers, int) else layers
    found = []
    for place in names.places.values():
        if place.kind != "linear" or (names.is_moe and place.name.endswith((".gate", ".up", ".down"))):
            continue
        index = re.search(r"\.layers\.(\d+)\.", f".{place.path}")
        outside = layers is not None and (index is None or int(index[1]) not in layers)
        if _matches(place.path, targets) and not outside:
            if not _matches(place.path, data.get("exclude_modules") or ()):
                found.append(place.path)
    return found


def _matches(path: str, targets: str | Collection[str]) -> bool:
    """PEFT's rule: a text is a regular expression for the whole path, a list holds paths or their ends."""
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    return any(_names(path, target) for target in targets)


def _names(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _within(key: str, module: str) -> bool:
    """Whether a tensor saved in full belongs to `module` or, where that has parts (`mlp`), to one of them."""
    parts = key.split(".")[:-1]
    saved = not any(part.startswith("lora_") for part in parts)
    return saved and any(_names(".".join(parts[:end]), module) for end in range(1, len(parts) + 1))
