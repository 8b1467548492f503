"""Merge an adapter into its base as a new checkpoint, and prove by probes that the result is the tuned model.

Three models are recorded on the same texts: the base, base with adapter, and the written model, read back
from disk. `proof.judge` requires that the third is the second and not the first; otherwise nothing is kept.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.adapters.apply import apply_in_place
from coterie.adapters.attach import merge_adapter
from coterie.adapters.files import AdapterFiles, check_adapter, layout_by_probes, read_adapter
from coterie.adapters.independent import check_weights
from coterie.adapters.peft_layouts import Layout
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST, commit_directory, require_free
from coterie.checkpoints.quantised.settings import SIDE_FILES
from coterie.checkpoints.tensor_writer import as_dtype, write_model_files
from coterie.config import AdapterConfig, CheckpointError
from coterie.contamination.lineage import joined
from coterie.nn.transformer import Transformer
from coterie.proof.difference import ROUNDED, SAME, Difference
from coterie.proof.judge import Judgement, judge
from coterie.proof.records import ProbeRecord, default_sequences, record, save_probes
from coterie.text.template_sources import stored_templates, write_templates

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".index.json")
_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class Merge:
    """What was merged and how well it survived.

    `difference`: of the written model from base with adapter. `change`: mean log-probability difference of
    the tuned model from its base, in nats. `gravity`: 1 is the tuned model, 0 the base. `dequantised`: the
    base was stored in fewer bits. `adapter_probes`: whether the adapter's recorded answers were reproduced
    before the merge (None: it has none).
    """

    out: Path
    dtype: str
    difference: Difference
    gravity: float
    change: float
    dequantised: bool
    adapter_probes: bool | None

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "out": str(self.out),
            "dtype": self.dtype,
            "gravity": self.gravity,
            "change": self.change,
            "dequantised": self.dequantised,
            "adapter_probes": self.adapter_probes,
            "difference": self.difference.to_dict(),
        }


def merge_checkpoint(
    base: str | Path | Checkpoint,
    adapter: str | Path | AdapterFiles,
    out: str | Path,
    dtype: str | None = None,
    layout: Layout | None = None,
) -> Merge:
    """Write base plus adapter as the checkpoint `out`, verified; its probes are stored with it.

    `dtype`: of the written weights (default: the base's own; bfloat16 for a quantised base). `layout`: assume
    this one for an adapter whose files do not state theirs. Errors: `CheckpointError`, one line, and no
    `out`, when the adapter does not fit, changes nothing, or did not survive the merge.
    """
    final = Path(out)
    require_free(final)
    checkpoint, files = Checkpoint.open(base), read_adapter(adapter)
    stored = checkpoint.kept_dtype if dtype is None else as_dtype(dtype)
    read_as = files.layout(layout) or _probed_layout(files, checkpoint)
    held, tokenizer = held_for(checkpoint, files, stored), checkpoint.tokenizer
    model = _loaded(checkpoint, held, stored)
    sequences = default_sequences(tokenizer, model.config.vocab_size, model.config.max_positions)
    untouched = record(model, sequences, tokenizer)
    apply_in_place(model, files, checkpoint, read_as)
    probed = _check_adapter(files, model, checkpoint)
    tuned = record(model, sequences, tokenizer)
    if judge(untouched, tuned, tuned).ruling == "unchanged":
        raise CheckpointError(f"{files.path}: changes nothing; base with adapter is still the base")
    about = _manifest(checkpoint, files, model.adapter)
    carried = stored_templates(files.path)
    merge_adapter(model)
    models, found = [model], list[Judgement]()
    del model  # one model in memory at a time: `write` drops it before it reads the result back

    def write(target: Path) -> None:
        _copy_small_files(checkpoint, target)
        if carried.named or checkpoint.gguf is None:
            write_templates(target, carried if carried.named else stored_templates(checkpoint.path))
        write_model_files(target, models.pop(), dtype=stored)
        result = Checkpoint.open(target)
        written = record(result.load(stored).model, sequences, tokenizer)
        found.append(_judged(untouched, tuned, written, stored, final))
        _check_weights(checkpoint, files, read_as, result, (held, stored), final)
        about["merged"] |= {"gravity": found[0].gravity, "mean_logprob": found[0].lost.mean_logprob}
        save_probes(target, written)

    commit_directory(final, write, about)
    return Merge(
        out=final,
        dtype=_name(stored),
        difference=found[0].lost,
        gravity=found[0].gravity,
        change=found[0].moved.mean_logprob,
        dequantised=checkpoint.quantised,
        adapter_probes=probed,
    )


def _loaded(base: Checkpoint, held: torch.dtype, stored: torch.dtype) -> Transformer:
    """The base as a model of type `stored`, read as `held`."""
    if base.quantised:
        name = _name(stored)
        _log.warning("the base %s is quantised; the merged weights are written as %s", base.path, name)
    model: Transformer = base.load(held).model.to(stored)
    model.compute_dtype = stored
    return model


def held_for(base: Checkpoint, files: AdapterFiles, dtype: torch.dtype) -> torch.dtype:
    """The type in which to read the base of an adapter for a result of type `dtype`.

    Tuning holds quantised weights that it does not keep as codes in `kept_dtype`, and the adapter was made
    for these rounded weights: they are not read wider.
    """
    rounded = base.quantised and files.settings.quant == "none"
    return base.kept_dtype if rounded and dtype.itemsize > base.kept_dtype.itemsize else dtype


def _probed_layout(files: AdapterFiles, base: Checkpoint) -> Layout:
    return layout_by_probes(base.load().model, files, base.tokenizer)


def _check_weights(
    base: Checkpoint,
    files: AdapterFiles,
    layout: Layout,
    result: Checkpoint,
    types: tuple[torch.dtype, torch.dtype],
    final: Path,
) -> None:
    """The written tensors must be what an independent application of the adapter gives.

    `types`: in which the base is read, and of the result.
    """
    written = result.tensors

    def actual(name: str) -> Tensor | None:
        if name in written:
            return written.read(name)
        tied = name.endswith("lm_head.weight") and result.config.tie_embeddings
        embedding = next((n for n in written if n.endswith("embed_tokens.weight")), None) if tied else None
        return None if embedding is None else written.read(embedding)

    check_weights(base, files.tensors, files.config, layout, actual, types, str(final))


def _judged(
    base: ProbeRecord, tuned: ProbeRecord, written: ProbeRecord, stored: torch.dtype, where: Path
) -> Judgement:
    judged = judge(base, tuned, written, SAME if stored == torch.float32 else ROUNDED)
    if not judged.faithful:
        drowned = stored != torch.float32 and judged.ruling in ("base", "between")
        advice = "; the change is lost in rounding: use --dtype float32" if drowned else ""
        raise CheckpointError(f"{where}: the merged model {judged.reason}{advice}; nothing was written")
    return judged


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_adapter(files: AdapterFiles, model: Transformer, base: Checkpoint) -> bool | None:
    """Base with adapter must answer as the adapter recorded; None where it recorded no answers."""
    if files.probes is None:
        _log.warning("%s holds no probes; nothing shows that it is read as it was trained", files.path)
        return None
    rounding = check_adapter(files, model, base)
    if rounding is not None and rounding.rounded:
        quant = files.settings.quant
        _log.warning("%s was trained on %s weights; it is merged into the unrounded ones", files.path, quant)
    return True


def _copy_small_files(source: Checkpoint, target: Path) -> None:
    """Copy everything but weights and the manifest: tokenizer, templates and settings."""
    if source.gguf is not None:
        source.gguf.write_small_files(target)
        return
    for path in sorted(source.path.iterdir()):
        if path.is_file() and path.name not in (MANIFEST, *SIDE_FILES) and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, target / path.name)


def _manifest(base: Checkpoint, files: AdapterFiles, settings: AdapterConfig | None) -> dict[str, Any]:
    travels = base.travelling_manifest()
    return (
        travels
        | joined([travels, files.manifest])
        | {
            "parent": str(base.path),
            "merged": {
                "base": base.manifest.get("sha256") or str(base.path),
                "adapter": str(files.path),
                "config": settings.to_dict() if settings is not None else None,
            },
        }
    )
