"""The names of our layers in transformers 5 and PEFT, derived from the family's declared mapping.

transformers 5 holds the experts of a layer as two parameters of one module (`...experts`), whatever the files
hold. PEFT wraps it twice, `gate_up_proj` (`up_proj` without gates) first, whose factors are
`experts.base_layer.lora_*`; those of `down_proj` are `experts.lora_*`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from coterie.config import ModelConfig
from coterie.families import Slot, family

Value = TypeVar("Value")
Kind = Literal["linear", "router", "gate_up", "up", "down"]
_EXPERTS: tuple[Kind, ...] = ("gate_up", "up", "down")

_LAYER = re.compile(r"(?:.*\.)?layers\.\d+\.(.+)")


@dataclass(frozen=True)
class Place:
    """One layer that can have factors.

    `path`: its module in transformers; for routed experts the module of all experts of the layer.
    """

    name: str
    path: str
    kind: Kind

    @property
    def of_experts(self) -> bool:
        """Whether it is one of the two matrices of routed experts."""
        return self.kind in _EXPERTS

    @property
    def reads(self) -> bool:
        """Whether it is the first of the two."""
        return self.kind in ("gate_up", "up")

    @property
    def stem(self) -> str:
        """What `.lora_A.weight` is appended to in a file with fused experts."""
        return f"{self.path}.base_layer" if self.reads else self.path

    @property
    def parameter(self) -> str:
        """The parameter, as PEFT's `target_parameters` and patterns name it."""
        return f"{self.path}.{self.kind}_proj" if self.of_experts else f"{self.path}.weight"


class Names:
    """The names of one model's layers and parameters in PEFT files, both ways."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        chosen = family(config.family)
        self.slots = [
            slot for slot in chosen.slots(config) if not slot.copy and not slot.name.startswith("mtp.")
        ]
        # In a model with an image encoder a name like q_proj would reach the encoder's layers too.
        self.only_whole_names = bool(chosen.texts)
        self.is_moe = config.is_moe
        self._memory_names = chosen.memory_names
        self.refused = chosen.peft_refuses
        self.transposed = chosen.fused != "out-in"

    @cached_property
    def places(self) -> dict[str, Place]:
        """By our layer name."""
        found: dict[str, Place] = {}
        for slot in self.slots:
            name, _, kind = slot.name.rpartition(".")
            if kind != "weight" or name in found or name == "embed" or name.endswith("norm"):
                continue
            if ".experts." in slot.name:
                part = next(kind for kind in _EXPERTS if name.endswith(f".{kind}"))
                found[name] = Place(name, self.experts_path(slot), part)
            else:
                path = self._in_memory(slot.disk).removesuffix(".weight")
                found[name] = Place(name, path, "router" if name.endswith(".router") else "linear")
        return found

    @cached_property
    def joined_tensors(self) -> dict[str, list[Slot]]:
        """The tensors that hold several of our parameters outside of experts: their key -> the parts."""
        found: dict[str, list[Slot]] = {}
        for slot in self.slots:
            if slot.within is not None and ".experts." not in slot.name:
                found.setdefault(self._in_memory(slot.disk), []).append(slot)
        return found

    @cached_property
    def joined(self) -> dict[str, list[Slot]]:
        """The same for the weights of linear layers: the layer's path -> the parts."""
        tensors = self.joined_tensors
        return {key.removesuffix(".weight"): tensors[key] for key in tensors if key.endswith(".weight")}

    @cached_property
    def expert_modules(self) -> dict[str, tuple[str, int, int]]:
        """Single experts' modules as transformers 4 named them: path -> (our layer, expert, half).

        Half 0 is the gate and 1 the up projection of `gate_up`, or `up` without gates; 2 stands for `down`.
        """
        found, moes = {}, dict(self.config.moe_layers())
        for layer, (name, path) in self._experts.items():
            gated = moes[layer].gated
            parts = self._parts(path)[-moes[layer].num_matrices :]
            halves = dict(zip((0, 1, 2) if gated else (1, 2), parts, strict=True))
            first = "gate_up" if gated else "up"
            for expert in range(moes[layer].router.num_experts):
                for half, part in halves.items():
                    ours = f"{name}.{'down' if half == 2 else first}"
                    found[f"{path}.{expert}.{part}"] = (ours, expert, half)
        return found

    def _parts(self, path: str) -> tuple[str, ...]:
        """Names of a single expert's gate, up and down: those on disk, if experts are stored one by one."""
        first = f"{path}.0."
        named = tuple(
            slot.disk.removeprefix(first).removesuffix(".weight")
            for slot in self.slots
            if slot.disk.startswith(first)
        )
        return named or ("gate_proj", "up_proj", "down_proj")

    @cached_property
    def _experts(self) -> dict[int, tuple[str, str]]:
        """Layer -> (our experts module, its path on disk)."""
        return {
            int(slot.name.split(".")[1]): (
                slot.name.rpartition(".experts.")[0] + ".experts",
                _experts_of(slot.disk) or self.experts_path(slot),
            )
            for slot in self.slots
            if ".experts." in slot.name
        }

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Our parameters and buffers -> the key (without PEFT's prefix) of a copy that is trained in full."""
        found = {}
        for slot in self.slots:
            if ".experts." in slot.name:
                layer, _, kind = slot.name.rpartition(".")
                ending = "_proj" if kind == "weight" else "_proj_bias"
                found[slot.name] = f"{self.experts_path(slot)}.{layer.rpartition('.')[2]}{ending}"
            else:
                found[slot.name] = self._in_memory(slot.disk)
        return found

    def experts_path(self, slot: Slot) -> str:
        """The module of a layer's experts in transformers 5."""
        return _experts_of(self._in_memory(slot.disk))

    def _in_memory(self, disk: str) -> str:
        """The name in a transformers 5 model of what is stored as `disk`."""
        for memory, stored in self._memory_names:
            disk = disk.replace(stored, memory)
        return disk

    def shorten(
        self, values: Mapping[str, Value], known: Iterable[str], leaves: bool = False
    ) -> dict[str, Value]:
        """The same values under as few names as PEFT understands, without reaching other names of `known`.

        A name becomes its last part (`q_proj`, with `leaves`), the part after the layer's number, or stays
        whole.
        """
        known, result = list(known), dict(values)
        for short in (_short, _leaf) if leaves else (_short,):
            groups: dict[str, list[str]] = {}
            for path in known:
                groups.setdefault(short(path), []).append(path)
            for name, same in groups.items():
                uniform = all(path in values and values[path] == values[same[0]] for path in same)
                if uniform and not self.only_whole_names:
                    result = {
                        path: value
                        for path, value in result.items()
                        if path not in same and short(path) != name
                    }
                    result[name] = values[same[0]]
        return result


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _short(path: str) -> str:
    match = _LAYER.fullmatch(path)
    return match.group(1) if match else path


def _experts_of(name: str) -> str:
    """The experts' module of a tensor's name; empty where the name shows none."""
    head, found, _ = name.partition(".experts.")
    return f"{head}.experts" if found else ""
