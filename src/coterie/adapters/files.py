"""Adapter directories: PEFT's `adapter_config.json` and `adapter_model.safetensors`, with a stamp.

The stamp (in `coterie.json`) says what no shape can: the layout, the order of the fused projections, the base
with the hashes of those of its tensors that are adapted, and the rank rule. `probes/` holds what the adapted
model answers to fixed texts.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from coterie.adapters.attach import Adapter, drop_adapter, put_adapter, take_adapter
from coterie.adapters.own_templates import other_templates
from coterie.adapters.peft import decode, encode, holds_fused_experts, holds_single_experts
from coterie.adapters.peft_joined import join_factors
from coterie.adapters.peft_layouts import LAYOUTS, Layout
from coterie.adapters.peft_names import Names
from coterie.adapters.peft_settings import check_settings_types, check_stamp_types
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST, commit_directory, read_manifest, require_free, verify_files
from coterie.checkpoints.locate import read_json
from coterie.checkpoints.quantise import MatrixRounding
from coterie.checkpoints.tensor_reader import read_tensors
from coterie.config import AdapterConfig, CheckpointError, CoterieError, ModelConfig
from coterie.config.adapter import ADAPTED_GROUPS
from coterie.config.files import write_json
from coterie.hub.cache import cached_revision
from coterie.hub.names import HubName
from coterie.nn.parameter_groups import module_groups, parameter_groups
from coterie.nn.transformer import Transformer
from coterie.proof.judge import check_record
from coterie.proof.records import ProbeRecord, default_sequences, load_probes, record, save_probes
from coterie.text.template_sources import ChatTemplates, write_templates
from coterie.text.tokenizer import Tokenizer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class AdapterFiles:
    """An opened adapter directory: every file read, and verified against its manifest, once.

    `stamp` and `manifest`: empty for adapters of other origin. `probes`: None where the adapter recorded no
    answers.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    stamp: dict[str, Any]
    probes: ProbeRecord | None
    manifest: Mapping[str, Any]

    @property
    def settings(self) -> AdapterConfig:
        """The settings it was made with, as far as the files state them."""
        stated = self.stamp.get("config")
        if stated is not None:
            return AdapterConfig.from_dict(stated, f"{self.path / MANIFEST}: adapter.config")
        data = self.config
        return AdapterConfig.from_dict(
            {
                "rank": data.get("r") or 1,
                "alpha": data.get("lora_alpha") or 1.0,
                "dropout": data.get("lora_dropout") or 0.0,
                "dora": bool(data.get("use_dora")),
            },
            str(self.path / CONFIG),
        )

    def settings_in(self, model: Transformer, adapter: Adapter) -> AdapterConfig:
        """`settings`, and where the files do not state it, which groups of `model` the tensors train."""
        if self.stamp.get("config") is not None:
            return self.settings
        modules, parameters = module_groups(model), parameter_groups(model)
        train: dict[str, str] = dict.fromkeys(ADAPTED_GROUPS, "freeze")
        train |= {str(parameters[name]): "full" for name in adapter.full if name in parameters}
        train |= {str(modules[name]): "lora" for name in adapter.factors if name in modules}
        stated = self.settings.to_dict() | {"train": train}
        scales = Counter(
            (factors.rank, factors.alpha) for factors in adapter.factors.values() if factors.alpha
        )
        if scales:  # with rslora and patterns, what the config file says first is not what the factors have
            stated["rank"], stated["alpha"] = scales.most_common(1)[0][0]
        return AdapterConfig.from_dict(stated, str(self.path / CONFIG))

    def layout(self, assume: Layout | None = None) -> Layout | None:
        """The layout by the stamp, the kind of names, or PEFT's version; None when none of them states it.

        `assume`: the layout to take where there is no stamp. Errors: `CheckpointError` when `assume`
        contradicts the stamp.
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
        """The adapter for a model of `config`. Errors: `CheckpointError` for tensors that do not fit it."""
        stated = self.stamp.get("experts"), self.stamp.get("columns")
        return decode(self.tensors, self.config, config, layout, str(self.path), *stated)


def is_adapter(path: str | Path) -> bool:
    """Whether a path is an adapter's directory rather than a model's."""
    directory = Path(path).expanduser()
    return (directory / CONFIG).is_file() and not (directory / "config.json").is_file()


def adapter_base(path: str | Path) -> str:
    """The base that an adapter's directory names, with its revision on the hub where it states one.

    Errors: `CheckpointError` when it names none.
    """
    settings = read_json(Path(path).expanduser() / CONFIG)
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{path}: is an adapter and does not name its base; give the base, and this as adapter"
        )
    revision = settings.get("revision")
    named = HubName.parse(base)
    pinned = isinstance(revision, str) and named == HubName(base) and not Path(base).is_dir()
    return f"{base}@{revision}" if pinned else base


def _layout_of_version(text: Any) -> Layout | None:
    parts = str(text).split("@")[0].split(".")[:3]
    if len(parts) < 3 or not all(part.isdigit() for part in parts):
        return None
    number = tuple(int(part) for part in parts)
    if number < (0, 17, 0):
        return None
    return "peft" if number >= (0, 19, 1) else "peft019" if number >= (0, 19, 0) else "peft018"


def read_adapter(path: str | Path | AdapterFiles) -> AdapterFiles:
    """Open an adapter directory: read its files once, checked against its manifest where it has one.

    An opened adapter is returned as it is. Errors: `CheckpointError` for a directory without the two files, a
    damaged one, or pickled weights.
    """
    if isinstance(path, AdapterFiles):
        return path
    directory = Path(path).expanduser()
    _require_files(directory)
    stamp: dict[str, Any] = {}
    manifest: dict[str, Any] = {}
    if (directory / MANIFEST).is_file():
        manifest = read_manifest(directory)
        verify_files(directory, manifest)
        stamp = check_stamp_types(manifest.get("adapter") or {}, str(directory))
    tensors = read_tensors(directory / WEIGHTS)
    config = read_json(directory / CONFIG)
    check_settings_types(config, str(directory))
    return AdapterFiles(directory, config, tensors, stamp, load_probes(directory), manifest)


def _require_files(directory: Path) -> None:
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory; give the directory of a LoRA adapter")
    if (directory / "adapter" / CONFIG).is_file():
        raise CheckpointError(
            f"{directory}: is the directory of a run; give its adapter, {directory / 'adapter'}"
        )
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            pickled = (directory / "adapter_model.bin").exists()
            why = " (its .bin is a pickle, which is never read)" if pickled else ""
            raise CheckpointError(f"{directory}: has no {name}{why}; give the directory of a LoRA adapter")


def save_adapter(
    path: str | Path,
    model: Transformer,
    base: str | Path | Checkpoint | None,
    tokenizer: Tokenizer | None = None,
    layout: Layout = "peft",
    probes: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the adapter of `model` as a PEFT directory, whole or not at all.

    `base`: the checkpoint it belongs to; the hashes of the adapted tensors are stored. `probes`: also store
    what the adapted model answers, for `check_adapter`. `extra`: further keys of the manifest.
    Errors: `CheckpointError` for a plain model or a path that holds something else.
    """
    if model.adapter is None:
        raise CheckpointError(f"{path}: the model has no adapter to save; attach one first")
    recorded = None
    if probes:
        mode = model.training
        model.eval()
        sequences = default_sequences(tokenizer, model.config.vocab_size, model.config.max_positions)
        recorded = record(model, sequences, tokenizer)
        model.train(mode)
    opened = Checkpoint.open(base) if base is not None else None
    templates = other_templates(opened, tokenizer)
    adapter = take_adapter(model)
    write_adapter(path, adapter, model.config, model.adapter, opened, layout, recorded, templates, extra)


def write_adapter(
    path: str | Path,
    adapter: Adapter,
    config: ModelConfig,
    settings: AdapterConfig,
    base: Checkpoint | None = None,
    layout: Layout = "peft",
    probes: ProbeRecord | None = None,
    templates: ChatTemplates | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write an adapter directory, committed by rename; parts that PEFT cannot express are logged.

    `templates`: the chat templates it was tuned with, if they are not the base's. `extra`: further keys of
    the manifest.

    Errors: `CheckpointError` when `path` holds something that is not an adapter.
    """
    final = Path(path)
    require_free(final, replaces=(CONFIG, "an adapter"))
    origin = cached_revision(base.path) if base is not None else None
    name = None if base is None else str(base.path) if origin is None else origin.repo
    tensors, data, reasons = encode(adapter, config, layout, name)
    data |= {"revision": origin.commit} if origin is not None else {}
    if reasons:
        _log.warning("%s: PEFT has no form for %s; it will refuse the directory", final, ", ".join(reasons))
    touched = [f"{name}.weight" for name in adapter.factors] + list(adapter.full)
    alternate = any(moe.gate_up_alternates for _, moe in config.moe_layers())
    chosen = {name: list(f.chosen) for name, f in adapter.factors.items() if f.chosen is not None}
    stamp = {
        "layout": layout,
        "family": config.family,
        "gate_up": "rows alternate, gate first" if alternate else "gate rows first",
        "peft_cannot": reasons,
        "rank_rule": settings.rank_rule,
        "config": settings.to_dict(),
        "experts": chosen or None,
        "columns": join_factors(Names(config), adapter.factors)[1] or None,
        "version": _own_version(),
        "base": _base_stamp(base, touched) if base is not None else {},
    }

    def write(target: Path) -> None:
        write_json(target / CONFIG, data, indent=2)
        stored = {key: tensor.to("cpu").contiguous() for key, tensor in tensors.items()}
        save_file(stored, target / WEIGHTS, metadata={"format": "pt"})
        if probes is not None:
            save_probes(target, probes)
        write_templates(target, templates or ChatTemplates())

    commit_directory(final, write, {"adapter": stamp, **(extra or {})})


def check_adapter(files: AdapterFiles, model: Transformer, base: Checkpoint) -> MatrixRounding | None:
    """Base with adapter must answer as the adapter recorded when it was saved.

    An adapter of a quantised base is checked on the base held in the same way, not on `model`; returns what
    became of its matrices. Errors: `CheckpointError` when the answers differ or none were recorded.
    """
    if files.probes is None:
        raise CheckpointError(f"{files.path}: holds no probes to check; save the adapter with probes=True")
    rounding: MatrixRounding | None = None
    if files.settings.quant != "none":
        # Tensors that are not in codes are held as they were then: in bfloat16, even where the file has more.
        loaded = base.load(files.probes.dtype or "float32", precision=files.settings.precision)
        model, rounding = loaded.model, loaded.rounding
        known = files.layout() or layout_by_probes(model, files, base.tokenizer)
        put_adapter(model, files.adapter(model.config, known), files.settings)
    check_record(files.probes, model, base.tokenizer, files.path)
    return rounding


def layout_by_probes(model: Transformer, files: AdapterFiles, tokenizer: Tokenizer | None) -> Layout:
    """The layout in which the adapter answers as it recorded; `model` is plain before and after.

    Errors: `CheckpointError` when no layout does, or no answers were recorded.
    """
    candidates: tuple[Layout, ...] = ("peft", "peft019", "peft018")
    if files.probes is not None:
        for layout in candidates:
            if _answers(model, files, files.probes, layout, tokenizer):
                return layout
    raise CheckpointError(
        f"{files.path}: neither a stamp, PEFT's version nor probes state the layout of its experts; give "
        f"--assume-layout with one of {', '.join(LAYOUTS)}"
    )


def _answers(
    model: Transformer,
    files: AdapterFiles,
    probes: ProbeRecord,
    layout: Layout,
    tokenizer: Tokenizer | None,
) -> bool:
    """Whether the adapter, read in this layout, answers as its probes recorded."""
    try:
        adapter = files.adapter(model.config, layout)
        own = dict(model.named_parameters()) | dict(model.named_buffers())
        before = {name: own[name].detach().clone() for name in adapter.full if name in own}
        put_adapter(model, adapter, files.settings)
    except CoterieError:
        return False
    try:
        check_record(probes, model, tokenizer, files.path)
        return True
    except CheckpointError:
        return False
    finally:
        drop_adapter(model, before)


def check_adapter_base(files: AdapterFiles, base: Checkpoint) -> None:
    """Refuse an adapter whose stamp names other base tensors than those of `base`.

    An adapter without a stamp is accepted and logged. Errors: `CheckpointError` naming the first tensor.
    """
    stamped = files.stamp.get("base") or {}
    hashes = stamped.get("tensors")
    if not hashes:
        _log.warning("%s does not state which weights it was made for; nothing to compare with", files.path)
        return
    base.verify()  # a manifest that speaks of other bytes proves nothing
    if stamped.get("manifest") and base.manifest.get("sha256") == stamped["manifest"]:
        return  # it lists the hashes of all files
    found = _hashes(base, hashes)
    wrong = [name for name, digest in hashes.items() if found.get(name) != digest]
    if wrong:
        form = stamped.get("quantisation")
        raise CheckpointError(
            f"{files.path}: was made for other weights than {base.path}: '{wrong[0]}' differs"
            + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else "")
            + f"; give the base it was trained on ({stamped.get('path')}"
            + (f", stored as {form})" if form else ")")
        )


def _base_stamp(base: Checkpoint, touched: Iterable[str]) -> dict[str, Any]:
    base.verify()
    return {
        "path": str(base.path),
        "manifest": base.manifest.get("sha256"),
        "tensors": _hashes(base, touched),
        "quantisation": base.stored_forms or None,
    }


def _hashes(base: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each of our parameters in `names`, over its tensors on disk in the order of the slots."""
    stored, wanted = base.tensors, set(names)
    digests: dict[str, Any] = {}
    for slot in Names(base.config).slots:
        if slot.name in wanted and slot.disk in stored:
            tensor = slot.part(stored.read(slot.disk)).contiguous()
            digest = digests.setdefault(slot.name, hashlib.sha256())
            digest.update(str((slot.disk, tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _own_version() -> str:
    try:
        return f"coterie {version('coterie')}"
    except PackageNotFoundError:
        return "coterie"
