"""What a model is, from its config and the small files next to it. No weights are read."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.foreseen_kernels import foreseen_kernels
from coterie.checkpoints.quantised.encoded import FormFacts
from coterie.checkpoints.stored_tensors import StoredTensors
from coterie.config import CheckpointError, CoterieError, ModelConfig
from coterie.config.precision import WEIGHT_CLASSES
from coterie.families import config_from_hf, family
from coterie.hub.names import HubRevision
from coterie.nn.parameter_groups import parameter_groups
from coterie.nn.transformer import Transformer
from coterie.plan.describe import ModelDescription, describe
from coterie.plan.published import Published, named_published

# Keys of generation_config.json that do not change replies.
_NO_SAMPLING = frozenset(
    "transformers_version _from_model_config use_cache output_attentions output_hidden_states output_scores "
    "return_dict_in_generate cache_implementation".split()
)


def config_of(name: str) -> ModelConfig:
    """The config of a directory, a hub id or a published name such as `llama-4-scout`.

    Errors: `CoterieError` for an unknown name, with the nearest published one.
    """
    published = _published(name)
    if published is not None:
        return _config(published)
    return Checkpoint.open(name, weights=False).config


@dataclass(frozen=True)
class TokenizerFacts:
    """A tokenizer in figures. `end`: as text. `unused_rows`: of the model's embedding.

    `stops`: the tokens that end a reply, as text, and the files that name each.
    """

    vocabulary: int
    special_tokens: int
    end: str
    stops: dict[str, list[str]]
    unused_rows: int
    chat_template: bool
    sha256: str


@dataclass(frozen=True)
class StoredFacts:
    """What a directory stores. `committed`: it has our manifest, which may name its `parent` and `step`.

    `probes`: how many there are. `bytes_by_type`: on disk. `forms`: of quantised tensors. `classes`: class of
    weights -> its forms, where any is quantised. `problem`: why these could not be read; the first two are
    then None.
    """

    committed: bool
    parent: Any
    step: int | None
    probes: int | None
    bytes_by_type: dict[str, int] | None
    problem: str | None = None
    forms: list[FormFacts] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON types, without the keys that could not be read."""
        optional = ("probes", "bytes_by_type", "problem")
        facts = {
            key: value for key, value in asdict(self).items() if key not in optional or value is not None
        }
        del facts["forms"]
        if not self.classes:
            del facts["classes"]
        return facts | (
            {"forms": [asdict(form) | {"bits": form.bits} for form in self.forms]} if self.forms else {}
        )


@dataclass(frozen=True)
class GgufFileFacts:
    """What only a GGUF file says. `files`: of a split one, all. `tensors`: number by type.

    `split`: llama.cpp's name of how text is split before merging.
    """

    architecture: str
    name: str | None
    files: int
    tensors: dict[str, int]
    split: str | None


@dataclass(frozen=True)
class DirectoryFacts:
    """What a directory or file adds to the description of its model. `origin`: on the hub, if known.

    `quantised`: the method on disk, or None. `kept_keys`: of config.json, kept for the round trip alone.
    `sampling`: what generation_config.json recommends, without its ids. `notes`: what the files contradict
    each other in, and what is not used.
    """

    path: Path
    origin: HubRevision | None
    quantised: str | None
    tokenizer: TokenizerFacts | None
    stored: StoredFacts
    kept_keys: list[str]
    sampling: dict[str, Any]
    notes: list[str]
    gguf: GgufFileFacts | None = None


@dataclass(frozen=True)
class Inspection:
    """All facts about a directory, a hub id or a published name; one of the last two is None.

    `kernels`: what decoding would run on here.
    """

    name: str
    model: ModelDescription
    kernels: str
    published: Published | None = None
    directory: DirectoryFacts | None = None

    @property
    def oddities(self) -> list[str]:
        """What is unlike a plain decoder, on disk too."""
        if self.directory is None or not self.directory.quantised:
            return list(self.model.oddities)
        forms = "; ".join(map(str, self.directory.stored.forms)) or self.directory.quantised
        return [*self.model.oddities, f"quantised on disk ({forms})"]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        facts: dict[str, Any] = {"name": self.name}
        if self.published is not None:
            stated = ("title", "total", "active", "source", "note")
            facts["published"] = {key: getattr(self.published, key) for key in stated}
        if self.directory is not None:
            facts["directory"] = str(self.directory.path)
            facts["hub"] = None if self.directory.origin is None else asdict(self.directory.origin)
        facts |= self.model.to_dict() | {"oddities": self.oddities, "kernels": self.kernels}
        if self.directory is not None:
            tokenizer = self.directory.tokenizer
            facts["quantised"] = self.directory.quantised
            if self.directory.gguf is not None:
                facts["gguf"] = asdict(self.directory.gguf)
            facts["tokenizer"] = None if tokenizer is None else asdict(tokenizer)
            facts["stored"] = self.directory.stored.to_dict()
            facts["kept_keys"] = self.directory.kept_keys
            facts["sampling"], facts["notes"] = self.directory.sampling, self.directory.notes
        return facts


def inspect_model(name: str) -> Inspection:
    """Describe a directory, a hub id or a published name. Of a hub id only the small files are fetched.

    Errors: `CoterieError` for an unknown name. Damaged weights raise nothing: the facts of the
    directory then name the problem.
    """
    published = _published(name)
    if published is not None:
        config = _config(published)
        return Inspection(published.name, describe(config), foreseen_kernels(config), published)
    checkpoint = Checkpoint.open(name, weights=False)
    config = checkpoint.config
    directory = DirectoryFacts(
        checkpoint.path,
        checkpoint.origin,
        _quantisation(checkpoint),
        _tokenizer(checkpoint),
        _stored(checkpoint),
        sorted(config.extra),
        {
            key: value
            for key, value in checkpoint.generation_config.items()
            if not key.endswith("_token_id") and key not in _NO_SAMPLING
        },
        _notes(checkpoint),
        _gguf(checkpoint),
    )
    kernels = foreseen_kernels(config, checkpoint)
    return Inspection(name, describe(config), kernels, directory=directory)


def _published(name: str) -> Published | None:
    """The published model of that name; None for what is a path or a hub id."""
    return None if "/" in name or Path(name).expanduser().exists() else named_published(name)


def _config(published: Published) -> ModelConfig:
    assert published.config is not None
    return config_from_hf(published.config, published.name)


def _gguf(checkpoint: Checkpoint) -> GgufFileFacts | None:
    if checkpoint.gguf is None:
        return None
    keys, stored = checkpoint.gguf.keys, checkpoint.gguf.stored
    name, split = (keys.get(key) for key in ("general.name", "tokenizer.ggml.pre"))
    return GgufFileFacts(
        architecture=str(keys.get("general.architecture")),
        name=None if name is None else str(name),
        files=len(stored.paths),
        tensors=dict(Counter(stored.type(tensor) for tensor in stored).most_common()),
        split=None if split is None else str(split),
    )


def _quantisation(checkpoint: Checkpoint) -> str | None:
    if checkpoint.gguf is not None:
        return "gguf" if checkpoint.gguf.stored.quantised else None
    quantisation = checkpoint.quantisation
    return None if quantisation is None else str(quantisation.values.get("quant_method", "unnamed"))


def _tokenizer(checkpoint: Checkpoint) -> TokenizerFacts | None:
    try:
        tokenizer = checkpoint.tokenizer
    except CheckpointError:  # of a GGUF file; the line is among the notes
        tokenizer = None
    if tokenizer is None:
        return None
    named = {token: name for name, token in tokenizer.added_tokens.items()}
    return TokenizerFacts(
        vocabulary=tokenizer.vocab_size,
        special_tokens=len(tokenizer.special_ids),
        end=named[tokenizer.eos_id],
        stops={
            named.get(token, f"token {token}"): list(files)
            for token, files in sorted(_sources(checkpoint).items())
        },
        unused_rows=checkpoint.config.vocab_size - tokenizer.vocab_size,
        chat_template=tokenizer.chat_template is not None,
        sha256=tokenizer.sha256,
    )


def _sources(checkpoint: Checkpoint) -> dict[int, tuple[str, ...]]:
    """Stop id -> the files that name it; empty where one of them is damaged, which is among the notes."""
    try:
        return checkpoint.tokens.sources
    except CoterieError:
        return {}


def _notes(checkpoint: Checkpoint) -> list[str]:
    """The contradictions of the files; a problem with one of them is reported, not raised."""
    try:
        return list(checkpoint.notes)
    except CoterieError as error:
        return [str(error)]


def _stored(checkpoint: Checkpoint) -> StoredFacts:
    """Manifest, probes and bytes by type; a problem with the weights is reported, not raised."""
    manifest = checkpoint.manifest
    probes: int | None = None
    sizes: dict[str, int] | None = None
    problem, forms, classes = None, list[FormFacts](), dict[str, list[str]]()
    try:
        probes = len(checkpoint.probes.sequences) if checkpoint.probes is not None else 0
        sizes = checkpoint.tensors.bytes_by_type
        if isinstance(checkpoint.tensors, StoredTensors) and checkpoint.quantised:
            forms = checkpoint.tensors.forms
            classes = stored_classes(checkpoint.config, checkpoint.tensors)
    except CoterieError as error:
        problem = str(error)
    parent, step = manifest.get("parent"), manifest.get("step")
    return StoredFacts(bool(manifest), parent, step, probes, sizes, problem, forms, classes)


def stored_classes(config: ModelConfig, tensors: StoredTensors) -> dict[str, list[str]]:
    """Class of weights -> the forms that its matrices are stored in."""
    with torch.device("meta"):
        groups = parameter_groups(Transformer(config))
    found: dict[str, set[str]] = {}
    for slot in family(config.family).slots(config):
        if groups.get(slot.name) not in WEIGHT_CLASSES or slot.disk not in tensors:
            continue
        if len(tensors.shape(slot.disk)) > 1:
            form = tensors.form(slot.disk) or str(tensors.dtype(slot.disk)).removeprefix("torch.")
            found.setdefault(groups[slot.name], set()).add(form)
    return {group: sorted(found[group]) for group in WEIGHT_CLASSES if group in found}
