"""One handle for an opened checkpoint: each file is opened and verified once, when it is first needed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from coterie.checkpoints.commit import MANIFEST, read_manifest, travelling, verify_files
from coterie.checkpoints.expert_files import expert_bytes, expert_memory, leave_on_disk, read_busiest
from coterie.checkpoints.fill import (
    Skeleton,
    as_stored,
    fill_model,
    place_tensors,
    require_memory,
    weight_bytes,
)
from coterie.checkpoints.generation import unused_settings
from coterie.checkpoints.gguf_model.form import GgufModel
from coterie.checkpoints.gguf_model.source import GgufSource
from coterie.checkpoints.locate import locate, nearest, read_json, weight_files
from coterie.checkpoints.names import FamilyNames, is_bare
from coterie.checkpoints.pulled import origin
from coterie.checkpoints.quantise import MatrixRounding, hold_as, quantised_parts, round_head, types_of
from coterie.checkpoints.quantised.settings import QuantSettings, stated
from coterie.checkpoints.stored_tensors import StoredTensors
from coterie.checkpoints.tensor_writer import as_dtype
from coterie.checkpoints.token_facts import TokenFacts, gather_tokens
from coterie.config import CheckpointError, DataError, ModelConfig, Precision
from coterie.config.expert_place import ExpertPlace
from coterie.config.files import present
from coterie.families import config_from_hf, family, float32_parameters
from coterie.families.contradictions import contradictions
from coterie.hub.names import HubRevision
from coterie.nn.materialise import materialise
from coterie.nn.transformer import Transformer
from coterie.proof.difference import Difference
from coterie.proof.judge import check_record
from coterie.proof.records import ProbeRecord, load_probes
from coterie.text.tokenizer import Tokenizer

_log = logging.getLogger("coterie")


class Checkpoint:
    """An opened checkpoint: a directory, or a GGUF file; use `Checkpoint.open`.

    Each property is read when it is first used and kept, so the handle describes the files as they were
    then. `name`: what the caller gave (a path or a hub id). `path`: the directory or file. `gguf`: the model
    in the file, which says all that a directory's small files say; None for a directory. Errors:
    `CheckpointError`, one line, from any property whose file is missing or damaged.
    """

    def __init__(self, path: Path, name: str, gguf: GgufModel | None = None) -> None:
        self.path = path
        self.name = name
        self.gguf = GgufModel(path) if gguf is None and path.is_file() else gguf
        self._verified: set[tuple[bool, str]] = set()  # (full, suffix) of checks that passed

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r})"

    @staticmethod
    def open(path: str | Path | Checkpoint, weights: bool = True) -> Checkpoint:
        """Open a directory, a GGUF file, or a hub id (`owner/name@revision`), which is downloaded.

        An open checkpoint is returned as it is. `weights`: whether a download includes the weights.
        Errors: `CheckpointError` when `path` is none of these, or the hub cannot be reached.
        """
        return path if isinstance(path, Checkpoint) else Checkpoint(locate(path, weights), str(path))

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """The content of config.json."""
        if self.gguf is not None:
            return self.gguf.raw_config
        file = self.path / "config.json"
        if not present(file, CheckpointError):
            if (self.path / "adapter_config.json").is_file():
                raise CheckpointError(
                    f"{self.path}: is an adapter, and a whole model is needed; merge it with its base first "
                    "(coterie merge BASE ADAPTER -o DIR)"
                )
            raise CheckpointError(f"{self.path}: has no config.json{nearest(self.path)}")
        return read_json(file)

    @cached_property
    def config(self) -> ModelConfig:
        """The model that config.json describes."""
        return config_from_hf(self.raw_config, where=self._config_file)

    @property
    def _config_file(self) -> str:
        return str(self.path if self.gguf is not None else self.path / "config.json")

    @cached_property
    def tensors(self) -> StoredTensors | GgufSource:
        """The tensors of the weight files: headers checked, nothing read yet."""
        if self.gguf is not None:
            return self.gguf.tensors(self.config)
        if not (self.path / "config.json").is_file():
            return StoredTensors(weight_files(self.path))
        chosen = family(self.config.family)
        with_head = self.config.model_copy(update={"tie_embeddings": False})
        names = FamilyNames((slot.disk for slot in chosen.slots(with_head)), chosen.memory_names)
        return StoredTensors(weight_files(self.path), self.quantisation, names.canonical)

    @cached_property
    def quantisation(self) -> QuantSettings | None:
        """How the files say that the weights are quantised; None where they say nothing."""
        return None if self.gguf is not None else stated(self.path, self.raw_config)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The content of `coterie.json`, its own hash checked; empty for directories of other origin."""
        return read_manifest(self.path) if present(self.path / MANIFEST, CheckpointError) else {}

    @property
    def origin(self) -> HubRevision | None:
        """The model and revision of the hub that the directory was pulled as; None for others."""
        return origin(self.path, self.manifest)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None where the directory has none. Errors: `DataError` for a damaged one."""
        if self.gguf is not None:
            return self.gguf.tokenizer
        return Tokenizer.load(self.path) if present(self.path / "tokenizer.json", DataError) else None

    @cached_property
    def probes(self) -> ProbeRecord | None:
        """What the model answered to fixed texts when it was saved; None where nothing was recorded."""
        return load_probes(self.path)

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The content of generation_config.json; empty where the directory has none."""
        if self.gguf is not None:
            return self.gguf.generation_config
        file = self.path / "generation_config.json"
        return read_json(file) if present(file, CheckpointError) else {}

    @property
    def generation(self) -> dict[str, Any]:
        """The generation_config.json of a model made from this one: the same, with all stop tokens."""
        return self.generation_config | ({"eos_token_id": list(self.stops)} if self.stops else {})

    @cached_property
    def tokens(self) -> TokenFacts:
        """What the files say about the tokens that end a reply, checked against the embedding."""
        found = gather_tokens(
            self.path, self.raw_config, self.generation_config, self.tokenizer, self.config.vocab_size
        )
        if self.gguf is None:
            return found
        return replace(found, sources=dict.fromkeys(found.sources, (self.path.name,)))

    @property
    def stops(self) -> tuple[int, ...]:
        """Ids that end a reply, ascending; see `token_facts`."""
        return self.tokens.stops

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What the files contradict each other in, and what is not used, one line each."""
        named = contradictions(self.raw_config, self._config_file)
        templates = () if self.tokenizer is None else self.tokenizer.templates.notes
        if self.gguf is not None:
            named = [*named, *self.gguf.notes]
        return (*named, *self.tokens.notes, *unused_settings(self.generation_config), *templates)

    @property
    def quantised(self) -> bool:
        """Whether any tensor is stored in a narrower form than it is used."""
        return self.tensors.quantised

    @cached_property
    def stored_forms(self) -> str:
        """The quantised forms of the weights in words; empty for plain ones."""
        if isinstance(self.tensors, StoredTensors):
            return ", ".join(sorted(facts.form for facts in self.tensors.forms))
        return ", ".join(sorted(self.tensors.bytes_by_type)) if self.quantised else ""

    @cached_property
    def stored_dtype(self) -> torch.dtype:
        """The type that all weights are stored in; float32 where types are mixed or weights quantised."""
        # Selection biases and some weights are float32 in checkpoints of any type: they say nothing about it.
        weights = {
            self.tensors.dtype(slot.disk)
            for slot in family(self.config.family).slots(self.config)
            if slot.disk in self.tensors and not (slot.float32 or slot.name.endswith("select_bias"))
        }
        only = weights.pop() if len(weights) == 1 else torch.float32
        return only if only in (torch.bfloat16, torch.float16) else torch.float32

    @property
    def kept_dtype(self) -> torch.dtype:
        """The type to hold and write the weights in: the stored one, or bfloat16 for quantised weights.

        A GGUF file has the norms in float32 whatever type it was made from; its matrices tell.
        """
        if self.quantised:
            return torch.bfloat16
        return self.stored_dtype if self.gguf is None else self.gguf.matrix_dtype

    @property
    def _is_bare(self) -> bool:
        """Whether the files hold the decoder alone, without an output head."""
        slots = family(self.config.family).slots(self.config)
        names = {slot.name: slot.disk for slot in slots if not slot.copy}
        embedding, head = names["embed.weight"], names.get("head.weight")
        if head is None or head in self.tensors or embedding not in self.tensors:
            return False
        return is_bare(self.tensors.stored_name(embedding))

    def travelling_manifest(self) -> dict[str, Any]:
        """What a directory made from this one keeps of its manifest: origin, metrics and the like.

        What it claims travels only with the weights that it lists. Errors: `CheckpointError` for others.
        """
        self.verify()
        return travelling(self.manifest)

    def verify(self, full: bool = True, suffix: str = ".safetensors") -> None:
        """Check the weight files against the manifest: sizes and samples or, when `full`, their SHA-256.

        Each check runs once. Without a manifest there is nothing to check. A model that is only used is
        checked by samples; whatever stamps its result with the manifest, or trusts such a stamp, by hashes.
        `suffix`: only files whose names end like this; the default leaves out the small files, which people
        may edit. Errors: `CheckpointError` naming the first file that differs.
        """
        if self.manifest and not {(full, suffix), (True, suffix)} & self._verified:
            verify_files(self.path, self.manifest, full, suffix)
            self._verified.add((full, suffix))

    def check_probes(self, model: Transformer) -> Difference:
        """Run the recorded probes on `model`; see `proof.records.check_record`.

        Errors: `CheckpointError` when nothing was recorded or the model answers differently.
        """
        if self.probes is None:
            raise CheckpointError(
                f"{self.path}: holds no probes to check; save the model with probes=True first"
            )
        return check_record(self.probes, model, self.tokenizer, self.path)

    def load(
        self,
        dtype: str | torch.dtype = "float32",
        device: str | torch.device = "cpu",
        compute_dtype: torch.dtype | None = None,
        check: bool = False,
        precision: Precision | None = None,
        experts: ExpertPlace | None = None,
    ) -> Loaded:
        """Build the model and fill it, one tensor in memory at a time in addition to the model.

        `dtype`: of the parameters ("float32", "bfloat16"); activations use it too unless `compute_dtype` says
        otherwise. `check`: run the recorded probes, and fail unless the model answers as recorded.
        `precision`: what each class of weights is held in, so that the wide model is never in memory: as
        their stored codes where these fit, otherwise rounded as they are read; a message says so. None: all
        as `dtype`, stored codes widened. `experts`: where routed experts are (None: in memory).
        Errors: `CheckpointError` naming missing, unexpected or wrongly shaped tensors, pickle files, a
        tokenizer that is too large, and weights that differ from the manifest in length or samples (`verify`
        checks hashes).
        """
        for line in self.notes:
            _log.warning("%s: %s", self.path, line)
        made = self.skeleton(as_dtype(dtype), compute_dtype, precision)
        model, placement = made.model, made.placement
        room = None if experts is None else expert_memory(made, experts, self.path, device)
        if room is not None:
            source = Checkpoint(self.path, self.name, self.gguf).tensors  # nothing else reads from it
            placement = leave_on_disk(made, source, room)
        require_memory(model, made.dtype, device, self.path, made.types)
        materialise(model, made.dtype, device, made.types)
        rounding = MatrixRounding()
        fill_model(self.tensors, model, self.path, placement=placement, rounding=rounding)
        round_head(model)
        self._tell(model, rounding, made.dtype)
        if model.store is not None and experts is not None:
            _log.log(
                logging.WARNING if experts.where == "auto" else logging.INFO, "%s: %s", self.path, model.store
            )
            if experts.uses is not None:
                read_busiest(model.store, experts.uses)
        if check:
            self.check_probes(model)
        return Loaded(model, self, placement.ignored, rounding)

    def held_bytes(
        self, dtype: str | torch.dtype, precision: Precision, experts: ExpertPlace | None = None
    ) -> int:
        """Bytes of memory for weights as `load` would hold them; only headers are read. Errors: as `load`."""
        made = self.skeleton(as_dtype(dtype), None, precision)
        room = None if experts is None else expert_memory(made, experts, self.path)
        whole = weight_bytes(made.model, made.dtype, made.types)
        return whole if room is None else whole - expert_bytes(made) + room

    def skeleton(
        self, dtype: torch.dtype, compute_dtype: torch.dtype | None, precision: Precision | None
    ) -> Skeleton:
        """The model on the meta device, with the form of every weight decided; files are verified."""
        config = as_stored(self.config, self.tensors)
        if self.config.tie_embeddings and not config.tie_embeddings:
            _log.warning(
                "%s: config.json ties the embeddings; the files have a head, which is used", self.path
            )
        has_head = config.tie_embeddings or not self._is_bare
        if not has_head:
            config = config.model_copy(update={"tie_embeddings": True})
            _log.warning("%s has no output head: it gives vectors and no text", self.path)
        if self.quantisation is not None and not self.quantised:
            _log.warning("%s says quantised, but no tensor is; read as it is stored", self.quantisation.where)
        self._check_layers(config)
        with torch.device("meta"):
            model = Transformer(config, compute_dtype or dtype)
        model.has_head = has_head
        self.verify(full=False)
        if self.tokenizer is not None and self.tokenizer.vocab_size > config.vocab_size:
            raise CheckpointError(
                f"{self.path}: tokenizer.json has {self.tokenizer.vocab_size} tokens but the model only "
                f"{config.vocab_size}; they do not belong together"
            )
        placement = place_tensors(self.tensors, model, self.path)
        types = dict.fromkeys(float32_parameters(config), torch.float32)
        if precision is not None:
            hold_as(model, precision, self.tensors, placement.slots)
            types = types_of(model, precision) | types
        return Skeleton(model, placement, dtype, types)

    def _tell(self, model: Transformer, rounding: MatrixRounding, dtype: torch.dtype) -> None:
        """Say what became of weights that are stored, or now held, in fewer bits."""
        kind = str(dtype).removeprefix("torch.")
        if quantised_parts(model) and self.quantised:
            _log.warning("%s: %s; all else is read as %s", self.path, rounding, kind)
        elif quantised_parts(model):
            _log.info("%s: %s", self.path, rounding)
        elif self.quantised:
            _log.warning("%s is stored quantised; read as %s, and saved so", self.path, kind)

    def load_as_stored(self) -> Loaded:
        """`load` with weights of the type they are stored in and activations in float32.

        It answers as the model in float32 does and is no larger in memory than on disk; see `stored_dtype`.
        """
        return self.load(self.stored_dtype, compute_dtype=torch.float32)

    def _check_layers(self, config: ModelConfig) -> None:
        """Refuse more layers than the weights can have tensors for, before any of them is built."""
        stored = sum(1 for _ in self.tensors)
        if config.num_layers > stored:
            raise CheckpointError(
                f"{self.path}: config.json has {config.num_layers:,} layers, the weights {stored:,} tensors; "
                "they do not belong together"
            )


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory.

    `ignored`: tensors of its files that repeat or follow from others. `rounding`: what became of the matrices
    that were asked for in fewer bits.
    """

    model: Transformer
    checkpoint: Checkpoint
    ignored: tuple[str, ...] = ()
    rounding: MatrixRounding = field(default_factory=MatrixRounding)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer."""
        return self.checkpoint.tokenizer

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The checkpoint's manifest."""
        return self.checkpoint.manifest

    @property
    def path(self) -> Path:
        """The checkpoint's directory."""
        return self.checkpoint.path
