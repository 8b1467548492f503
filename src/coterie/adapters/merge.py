"""Fold an adapter into its base as a whole checkpoint, and prove by probes that the result is the tuned
model.

Three models are recorded on the same texts: the base, base with adapter, and what has been written, read
again from the disk. The last must be the second and must not lie near the first. Nothing stays behind when it
does not.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coterie.adapters.apply import apply_in_place
from coterie.adapters.attach import merge_adapter
from coterie.adapters.files import AdapterFiles, check_adapter, read_adapter
from coterie.adapters.peft_layouts import Layout
from coterie.checkpoints.commit import MANIFEST, commit_directory
from coterie.checkpoints.directory import kept_dtype, load_model, locate, open_tensors
from coterie.checkpoints.tensor_writer import as_dtype, write_model_files
from coterie.config import AdapterConfig, CheckpointError
from coterie.nn.transformer import Transformer
from coterie.proof.difference import ROUNDED, SAME, Difference, difference
from coterie.proof.judge import Judgement, judge
from coterie.proof.records import default_sequences, load_probes, record, save_probes
from coterie.text.tokenizer import Tokenizer

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".index.json")
_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class Merge:
    """What was merged and how well it survived.

    `difference`: of the written model from base with adapter. `change`: mean log-probability difference of
    the tuned model from its base. `gravity`: 1 is the tuned model, 0 the base. `dequantised`: the base was
    stored in fewer bits. `adapter_probes`: whether the adapter's own recorded answers were met first (None:
    it has none).
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
    base: str | Path,
    adapter: str | Path,
    out: str | Path,
    dtype: str | None = None,
    layout: Layout | None = None,
) -> Merge:
    """Write base plus adapter as the checkpoint `out`, verified; its probes are stored with it.

    `dtype`: of the written weights (default: the base's own; bfloat16 for a quantised base). `layout`: assume
    this one for an adapter that does not say. Errors: `CheckpointError`, one line, and no `out`, when the
    adapter does not fit, changes nothing, or did not survive the merge.
    """
    directory = locate(base)
    final = Path(out)
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise CheckpointError(f"{final}: exists already; remove it or choose another path")
    dequantised = open_tensors(directory).quantised
    stored = kept_dtype(directory) if dtype is None else as_dtype(dtype)
    loaded = load_model(directory, dtype=stored)
    if dequantised:
        _log.warning(
            "NOTE: the base %s is quantised; the merged weights are written as %s", directory, _name(stored)
        )
    model, tokenizer = loaded.model, loaded.tokenizer
    sequences = default_sequences(tokenizer, model.config.vocab_size, model.config.max_positions)
    untouched = record(model, sequences, tokenizer)
    files = read_adapter(adapter)
    apply_in_place(model, files, directory, tokenizer, layout)
    probed = _check_adapter(files, model, directory, tokenizer)
    tuned = record(model, sequences, tokenizer)
    change = difference(untouched, tuned).mean_logprob
    if change == 0.0:
        raise CheckpointError(f"{adapter}: changes nothing; base with adapter is still the base")
    about = _manifest(directory, loaded.manifest, files, model.adapter)
    merge_adapter(model)
    models, found = [model], list[Judgement]()
    del loaded, model  # one model in memory at a time

    def write(target: Path) -> None:
        _copy_small_files(directory, target)
        write_model_files(target, models.pop(), dtype=stored)
        written = record(load_model(target, dtype=stored).model, sequences, tokenizer)
        judged = judge(untouched, tuned, written, SAME if stored == torch.float32 else ROUNDED)
        if not judged.faithful:
            drowned = stored != torch.float32 and judged.ruling in ("base", "between")
            advice = "; the change is lost in rounding: use --dtype float32" if drowned else ""
            raise CheckpointError(f"{final}: the merged model {judged.reason}{advice}; nothing was written")
        found.append(judged)
        about["merged"] |= {"gravity": judged.gravity, "mean_logprob": judged.lost.mean_logprob}
        save_probes(target, written)

    commit_directory(final, write, about)
    return Merge(final, _name(stored), found[0].lost, found[0].gravity, change, dequantised, probed)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_adapter(
    files: AdapterFiles, model: Transformer, base: Path, tokenizer: Tokenizer | None
) -> bool | None:
    """Base with adapter must answer as the adapter recorded; None where it recorded nothing."""
    if load_probes(files.path) is None:
        _log.warning(
            "NOTE: %s holds no probes; that it is read as it was trained cannot be shown", files.path
        )
        return None
    quant = files.settings.quant
    if quant != "none":
        _log.warning(
            "NOTE: %s was trained on %s weights; it is merged into the unrounded ones", files.path, quant
        )
    check_adapter(files, model, base, tokenizer)
    return True


def _copy_small_files(source: Path, target: Path) -> None:
    """Tokenizer, templates and settings, as they are; everything but weights and the manifest."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != MANIFEST and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, target / path.name)


def _manifest(
    directory: Path, manifest: Mapping[str, Any], files: AdapterFiles, settings: AdapterConfig | None
) -> dict[str, Any]:
    kept = {
        key: value for key, value in manifest.items() if key not in ("format", "files", "sha256", "probes")
    }
    return kept | {
        "parent": str(directory),
        "merged": {
            "base": manifest.get("sha256") or str(directory),
            "adapter": str(files.path),
            "config": settings.to_dict() if settings is not None else None,
        },
    }
