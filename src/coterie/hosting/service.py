"""The state that all endpoints share: the model, its names, the engine's thread, settings and counters."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from coterie import __version__
from coterie.adapters.apply import apply_shared
from coterie.checkpoints.quantise import quantised_parts
from coterie.config import ConfigError
from coterie.config.files import file_sha256
from coterie.hosting.cards import card_of
from coterie.hosting.constraints.grammar import Grammars
from coterie.hosting.engine_thread import BEHIND, EngineThread
from coterie.hosting.errors import ApiError
from coterie.hosting.identities import Identities
from coterie.hosting.metrics import Metrics
from coterie.hosting.settings import ServeSettings
from coterie.infer.engine import Engine
from coterie.infer.model import LanguageModel
from coterie.nn.steering import RouterControl
from coterie.text.reply_formats import format_of
from coterie.text.tokenizer import Tokenizer


class Service:
    """A model being served.

    `name` is the name that requests use; `aliases` are further names. An adapter made for other weights than
    those of the model's checkpoint is refused.
    """

    def __init__(
        self,
        model: LanguageModel,
        name: str,
        settings: ServeSettings | None = None,
        aliases: tuple[str, ...] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self.model = model
        self.card = card_of(name, aliases, model.config, model.tokenizer)
        self.adapter_paths: dict[str, Path] = {}
        self.settings = settings or ServeSettings()
        self.metrics = metrics or Metrics()
        s = self.settings
        self.engine = Engine(
            model.model,
            model.tokenizer,
            max_batch=s.slots,
            prefill_chunk=s.prefill_chunk,
            max_stall=s.max_stall,
            deterministic=s.deterministic,
            prefix_bytes=s.prefix_cache_mb * 2**20,
            kernels=s.kernels,
            speculate=s.speculate,
        )
        self.kernels = self.engine.kernels_used  # compiled now rather than at the first request
        queue = 4 * s.slots if s.max_queue is None else s.max_queue
        positions = model.config.max_positions
        self.thread = EngineThread(self.engine, queue, max_queued_tokens=max(1, queue) * positions)
        self.profiles: dict[str, RouterControl] = {}
        if model.model.routers():
            self.engine.count_experts()
        self.held, self.dtype = model.held, str(model.dtype)
        self.fingerprints = {"": self._fingerprint()}  # adapter -> `system_fingerprint`
        self.identities = Identities(model, self.kernels)

    @property
    def name(self) -> str:
        """The name that requests use."""
        return self.card.name

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are served with the model."""
        return tuple(self.adapter_paths)

    @property
    def max_length(self) -> int:
        """Tokens of prompt and reply together."""
        return self.card.max_length

    @property
    def num_bytes(self) -> int:
        """Memory of the weights and of the prefix cache when it is full."""
        tensors = (*self.model.model.parameters(), *self.model.model.buffers())
        store = self.model.model.store
        weights = sum(one.numel() * one.element_size() for one in tensors)
        return weights + (0 if store is None else store.nbytes) + self.settings.prefix_cache_mb * 2**20

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Errors: `ApiError` 400 when the model lacks one."""
        if self.model.tokenizer is None:
            raise ApiError(400, "the model has no tokenizer; send token ids", "no_tokenizer")
        return self.model.tokenizer

    @cached_property
    def grammars(self) -> Grammars:
        """Makes the grammars of replies. Errors: `ApiError` 400 when the model lacks a tokenizer."""
        form = format_of(self.tokenizer.templates.for_calls)
        return Grammars(self.tokenizer, self.model.config.vocab_size, self.model.stop_ids, form)

    def start(self) -> None:
        """Start the engine's thread; a second call does nothing."""
        if not self.thread.started:
            self.thread.start()

    def stop(self) -> None:
        """End the thread; unfinished calls receive an error."""
        self.thread.stop()

    def add_adapter(self, name: str, path: str | Path) -> None:
        """Serve an adapter or expert patch next to the base.

        Call it before the start, or on the engine's thread.
        Errors: `ConfigError` or `CheckpointError`, one line.
        """
        if not re.fullmatch(r"[\w.-]{1,128}", name) or name in self.card.names:
            raise ConfigError(
                f"adapter name '{name[:40]}': use letters, digits, '.', '-', '_', and no model's own name"
            )
        model = apply_shared(self.model.model, path, self.model.checkpoint, self.model.tokenizer)
        self.fingerprints[name] = self._adapter_fingerprint(Path(path))
        self.engine.add_variant(name, model)
        self.adapter_paths = {**self.adapter_paths, name: Path(path)}

    def remove_adapter(self, name: str) -> None:
        """Stop serving an adapter; running replies finish with it. Call it on the engine's thread."""
        self.adapter_paths = {key: path for key, path in self.adapter_paths.items() if key != name}
        self.engine.remove_variant(name)

    def deadline(self) -> float:
        """The moment (monotonic) at which a request that arrives now times out; work that rests has none."""
        return math.inf if BEHIND.get() else time.monotonic() + self.settings.request_timeout

    def _fingerprint(self) -> str:
        """A hash of the weights (through the manifest if there is one), their dtype and this program."""
        files = self.model.manifest.get("files") or self.model.manifest.get("sha256")
        weight = self.model.model.embed.weight
        parts: list[Any] = [__version__, str(weight.dtype), self.model.config.to_dict(), files]
        parts.append(self.kernels.partition(":")[0])  # replies on others differ by rounding
        if quantised := quantised_parts(self.model.model):
            parts.append(self.model.held)
        if files is None:
            parts += [float(p.detach().double().sum()) for p in self.model.model.parameters()]
            parts += [int(part.codes.sum()) for part in quantised.values()]
        return (
            "fp_" + hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
        )

    def _adapter_fingerprint(self, path: Path) -> str:
        """A hash of the base's fingerprint and the adapter's files."""
        digest = hashlib.sha256(self.fingerprints[""].encode())
        for file in sorted(path.iterdir()):
            if file.suffix in (".safetensors", ".json") and file.is_file():
                digest.update((file.name + file_sha256(file)).encode())
        return "fp_" + digest.hexdigest()[:16]


def default_name(path: str) -> str:
    """The served name when none is given: the directory's or file's, or the hub's owner/name as it is."""
    local = Path(path).expanduser()
    if local.is_file():
        return local.stem
    if not local.is_dir():
        return path
    parts = [part for part in local.resolve().parts if part not in ("/", "model", "checkpoints", "latest")]
    return parts[-1] if parts else "model"
