"""Adapter directories: PEFT's `adapter_config.json` and `adapter_model.safetensors`, with a stamp in
`coterie.json`.

The stamp says what no shape can: the layout, the order of the fused projections, the base and the hashes of
the base's tensors that are adapted, the rank rule, and (`probes/`) what the adapted model says to fixed
texts.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coterie.adapters.attach import Adapter, drop_adapter, put_adapter, take_adapter
from coterie.adapters.peft import decode, encode, holds_fused_experts, holds_single_experts
from coterie.adapters.peft_layouts import LAYOUTS, Layout
from coterie.adapters.peft_names import Names
from coterie.checkpoints.commit import MANIFEST, commit_directory, read_manifest, verify_directory
from coterie.checkpoints.directory import load_model, open_tensors, read_json
from coterie.checkpoints.tensor_reader import read_header
from coterie.config import AdapterConfig, CheckpointError, CoterieError, ModelConfig
from coterie.config.model import MoEConfig
from coterie.nn.transformer import Transformer
from coterie.proof.judge import check_probes
from coterie.proof.records import default_sequences, load_probes, record, save_probes
from coterie.text.tokenizer import Tokenizer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter directory as it lies on disk; `stamp` is empty for adapters of other origin."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    stamp: dict[str, Any]

    @property
    def settings(self) -> AdapterConfig:
        """What it was made with, as far as known."""
        stated = self.stamp.get("config")
        if stated is not None:
            return AdapterConfig.from_dict(stated, f"{self.path / MANIFEST}: adapter.config")
        return AdapterConfig(rank=int(self.config.get("r") or 1))

    def layout(self, assume: Layout | None = None) -> Layout | None:
        """The layout by what the files say: the stamp, the kind of names, PEFT's version; None when they do
        not.

        Errors: `CheckpointError` when `assume` contradicts the stamp.
        """
        stamped = self.stamp.get("layout")
        if stamped is not None and (stamped not in LAYOUTS or assume not in (None, stamped)):
            wrong = f"not '{assume}'" if stamped in LAYOUTS else f"which is none of {', '.join(LAYOUTS)}"
            raise CheckpointError(
                f"{self.path}: its stamp says layout '{stamped}', {wrong}; believe the stamp"
            )
        if stamped is not None or assume is not None:
            return stamped or assume
        if not holds_fused_experts(list(self.tensors)):
            return "per-expert" if holds_single_experts(list(self.tensors)) else "peft"
        return _layout_of_version(self.config.get("peft_version"))

    def adapter(self, config: ModelConfig, layout: Layout) -> Adapter:
        """What the tensors mean for a model. Errors: `CheckpointError`."""
        return decode(self.tensors, self.config, config, layout, str(self.path), self.stamp.get("experts"))


def is_adapter(path: str | Path) -> bool:
    """Whether a path is an adapter's directory rather than a model's."""
    directory = Path(path).expanduser()
    return (directory / CONFIG).is_file() and not (directory / "config.json").is_file()


def adapter_base(path: str | Path) -> str:
    """The base that an adapter's directory names. Errors: `CheckpointError` when it names none."""
    base = read_json(Path(path).expanduser() / CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{path}: is an adapter and does not name its base; give the base, and this as adapter"
        )
    return base


def _layout_of_version(text: Any) -> Layout | None:
    parts = str(text).split("@")[0].split(".")[:3]
    if len(parts) < 3 or not all(part.isdigit() for part in parts):
        return None
    number = tuple(int(part) for part in parts)
    if number < (0, 17, 0):
        return None
    return "peft" if number >= (0, 19, 1) else "peft019" if number >= (0, 19, 0) else "peft018"


def read_adapter(path: str | Path) -> AdapterFiles:
    """The files of an adapter directory, checked against its manifest where it has one.

    Errors: `CheckpointError` for a directory without the two files, a damaged one, or pickled weights.
    """
    directory = Path(path).expanduser()
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory; give the directory of a LoRA adapter")
    if (directory / "adapter" / CONFIG).is_file():
        raise CheckpointError(
            f"{directory}: is the directory of a run; give its adapter, {directory / 'adapter'}"
        )
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            pickled = (
                " (its .bin is a pickle, which is never read)"
                if (directory / "adapter_model.bin").exists()
                else ""
            )
            raise CheckpointError(
                f"{directory}: has no {name}{pickled}; give the directory of a LoRA adapter"
            )
    stamp: dict[str, Any] = {}
    if (directory / MANIFEST).is_file():
        verify_directory(directory, full=True)
        stamp = read_manifest(directory).get("adapter") or {}
    read_header(directory / WEIGHTS)
    try:
        with safe_open(directory / WEIGHTS, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{directory / WEIGHTS}: cannot be read ({' '.join(str(error).split())})"
        ) from None
    return AdapterFiles(directory, read_json(directory / CONFIG), tensors, stamp)


def save_adapter(
    path: str | Path,
    model: Transformer,
    base: str | Path | None,
    tokenizer: Tokenizer | None = None,
    layout: Layout = "peft",
    probes: bool = True,
) -> None:
    """Write the adapter of `model` as a PEFT directory, whole or not at all.

    `base`: the checkpoint directory it belongs to; its tensors are hashed. `probes`: also store what the
    adapted model says, for `check_probes`. Errors: `CheckpointError` for a plain model or a place that holds
    something else.
    """
    if model.adapter is None:
        raise CheckpointError(f"{path}: the model has no adapter to save; attach one first")
    mode = model.training
    model.eval()
    sequences = (
        default_sequences(tokenizer, model.config.vocab_size, model.config.max_positions) if probes else []
    )
    recorded = record(model, sequences, tokenizer) if probes else None
    model.train(mode)
    add = (lambda target: save_probes(target, recorded)) if recorded is not None else None
    write_adapter(path, take_adapter(model), model.config, model.adapter, base, layout, add)


def write_adapter(
    path: str | Path,
    adapter: Adapter,
    config: ModelConfig,
    settings: AdapterConfig,
    base: str | Path | None = None,
    layout: Layout = "peft",
    add: Callable[[Path], None] | None = None,
    stamp: Mapping[str, Any] | None = None,
) -> None:
    """Write an adapter directory; `add` puts further files in, `stamp` gives the base's part of an earlier
    stamp.
    """
    final = Path(path)
    if final.exists() and any(final.iterdir()) and not (final / CONFIG).is_file():
        raise CheckpointError(f"{final}: exists and is no adapter; remove it or choose another path")
    tensors, data, reasons = encode(adapter, config, layout, str(base) if base is not None else None)
    if reasons:
        _log.warning(
            "NOTE: %s: PEFT has no form for %s; it will refuse the directory", final, ", ".join(reasons)
        )
    touched = [f"{name}.weight" for name in adapter.factors] + list(adapter.full)
    alternate = any(
        isinstance(block.ffn, MoEConfig) and block.ffn.gate_up_alternates for block in config.blocks
    )
    about = {
        "layout": layout,
        "family": config.family,
        "gate_up": "rows alternate, gate first" if alternate else "gate rows first",
        "peft_cannot": reasons,
        "rank_rule": settings.rank_rule,
        "config": settings.to_dict(),
        "experts": {name: list(f.chosen) for name, f in adapter.factors.items() if f.chosen is not None}
        or None,
        "version": _own_version(),
        "base": _about_base(Path(base), config, touched) if base is not None else dict(stamp or {}),
    }

    def write(target: Path) -> None:
        (target / CONFIG).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        stored = {key: tensor.to("cpu").contiguous() for key, tensor in tensors.items()}
        save_file(stored, target / WEIGHTS, metadata={"format": "pt"})
        if add is not None:
            add(target)

    commit_directory(final, write, {"adapter": about})


def check_adapter(
    files: AdapterFiles, model: Transformer, base: str | Path, tokenizer: Tokenizer | None = None
) -> None:
    """Base with adapter must answer as the adapter recorded when it was saved.

    An adapter of a quantised base is asked on the base rounded in the same way, not on `model`.
    Errors: `CheckpointError` when it answers otherwise or recorded nothing.
    """
    if files.settings.quant != "none":
        model = load_model(base, quantise=files.settings).model
        known = files.layout() or layout_by_probes(model, files, tokenizer)
        put_adapter(model, files.adapter(model.config, known), files.settings)
    check_probes(files.path, model, tokenizer)


def layout_by_probes(model: Transformer, files: AdapterFiles, tokenizer: Tokenizer | None) -> Layout:
    """The layout in which the adapter answers as it recorded; `model` is plain before and after.

    Errors: `CheckpointError` when no layout does, or nothing was recorded.
    """
    fitting: list[Layout] = []
    if load_probes(files.path) is not None:
        for layout in ("peft", "peft019", "peft018"):
            if _answers(model, files, layout, tokenizer):
                fitting.append(layout)
    if not fitting:
        raise CheckpointError(
            f"{files.path}: neither a stamp, PEFT's version nor probes say how its experts are laid out; give "
            f"--assume-layout with one of {', '.join(LAYOUTS)}"
        )
    return fitting[0]


def _answers(model: Transformer, files: AdapterFiles, layout: Layout, tokenizer: Tokenizer | None) -> bool:
    """Whether the adapter, read in this layout, gives what its probes recorded."""
    try:
        adapter = files.adapter(model.config, layout)
        own = dict(model.named_parameters()) | dict(model.named_buffers())
        before = {name: own[name].detach().clone() for name in adapter.full if name in own}
        put_adapter(model, adapter, files.settings)
    except CoterieError:
        return False
    try:
        check_probes(files.path, model, tokenizer)
        return True
    except CheckpointError:
        return False
    finally:
        drop_adapter(model, before)


def check_adapter_base(files: AdapterFiles, base: Path, config: ModelConfig) -> None:
    """Refuse an adapter whose stamp names other base tensors than those in `base`; says so when it has no
    stamp.
    """
    stamped = files.stamp.get("base") or {}
    hashes = stamped.get("tensors")
    if not hashes:
        _log.warning(
            "NOTE: %s does not say which weights it was made for; nothing to compare with", files.path
        )
        return
    manifest = base / MANIFEST
    if (
        stamped.get("manifest")
        and manifest.is_file()
        and read_json(manifest).get("sha256") == stamped["manifest"]
    ):
        return
    found = _hashes(base, config, hashes)
    wrong = [name for name, digest in hashes.items() if found.get(name) != digest]
    if wrong:
        raise CheckpointError(
            f"{files.path}: was made for other weights than {base}: '{wrong[0]}' differs"
            + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else "")
            + f"; give the base it was trained on ({stamped.get('path')})"
        )


def _about_base(base: Path, config: ModelConfig, touched: Iterable[str]) -> dict[str, Any]:
    manifest = base / MANIFEST
    return {
        "path": str(base),
        "manifest": read_json(manifest).get("sha256") if manifest.is_file() else None,
        "tensors": _hashes(base, config, touched),
    }


def _hashes(base: Path, config: ModelConfig, touched: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each of our parameters as the base's files hold it, slot after slot."""
    stored, wanted = open_tensors(base), set(touched)
    digests: dict[str, Any] = {}
    for slot in Names(config).slots:
        if slot.name in wanted and slot.disk in stored:
            tensor = stored.read(slot.disk).contiguous()
            digest = digests.setdefault(slot.name, hashlib.sha256())
            digest.update(str((slot.disk, tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _own_version() -> str:
    try:
        return f"coterie {version('coterie')}"
    except PackageNotFoundError:
        return "coterie"
