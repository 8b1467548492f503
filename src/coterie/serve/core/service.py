"""What the endpoints share: the model, its names, the engine's thread, the settings, the counters."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr

from coterie import __version__
from coterie.adapters.apply import apply_shared
from coterie.config import ConfigError, CoterieError, Settings
from coterie.config.files import file_sha256
from coterie.infer.engine import Engine
from coterie.infer.model import LanguageModel
from coterie.serve.constraints.grammar import Grammars
from coterie.serve.core.engine_thread import EngineThread
from coterie.serve.core.errors import ApiError
from coterie.serve.core.metrics import Metrics
from coterie.serve.endpoints.protocol import MoeOptions
from coterie.serve.http.wire import as_api_error
from coterie.text.reply_formats import format_of
from coterie.text.tokenizer import Tokenizer

log = logging.getLogger("coterie.serve")


class ServeSettings(Settings):
    """How a server behaves. Sizes in bytes, times in seconds; `max_queue` None is four times `slots`.

    `feedback`: the directory that judgements of the page are written to (made at the first one); None keeps
    none.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_key: SecretStr | None = None
    insecure_no_auth: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    slots: int = Field(16, ge=1, le=1024)
    max_queue: int | None = Field(None, ge=0)
    prefill_chunk: int = Field(256, ge=1)
    max_stall: float = Field(0.2, ge=0)
    deterministic: bool = False
    prefix_bytes: int = Field(256 * 2**20, ge=0)
    max_body: int = Field(32 * 2**20, ge=1024)
    request_timeout: float = Field(600.0, gt=0)
    ping: float = Field(5.0, gt=0)
    drain: float = Field(30.0, ge=0)
    header_timeout: float = Field(10.0, gt=0)
    max_connections: int = Field(1000, ge=1)
    page: bool = True
    adapter_dir: Path | None = None
    feedback: str | None = "feedback"
    log_requests: Literal["off", "meta", "full"] = "meta"


class Service:
    """A model being served.

    `name` is what requests call it; `aliases` are further names. `directory`: where the model was read from;
    adapters that were made for other weights are refused.
    """

    def __init__(
        self,
        model: LanguageModel,
        name: str,
        settings: ServeSettings | None = None,
        aliases: tuple[str, ...] = (),
        directory: Path | None = None,
    ) -> None:
        self.model = model
        self.name = name
        self.adapters: tuple[str, ...] = ()
        self.directory = directory
        self.aliases = aliases
        self.settings = settings or ServeSettings()
        self.metrics = Metrics()
        self.started = int(time.time())
        s = self.settings
        self.engine = Engine(
            model.model,
            model.tokenizer,
            max_batch=s.slots,
            prefill_chunk=s.prefill_chunk,
            max_stall=s.max_stall,
            deterministic=s.deterministic,
            prefix_bytes=s.prefix_bytes,
        )
        queue = 4 * s.slots if s.max_queue is None else s.max_queue
        positions = model.config.max_positions
        self.thread = EngineThread(self.engine, queue, max_queued_tokens=max(1, queue) * positions)
        self.draining = False
        self.num_open = 0  # requests whose answer is not written to its end
        self.profiles: dict[str, MoeOptions] = {}
        if model.model.routers():
            self.engine.count_experts()
        self.fingerprints = {"": self._fingerprint()}  # by adapter: what `system_fingerprint` says

    @property
    def max_length(self) -> int:
        """Tokens of prompt and reply together."""
        return self.model.config.max_positions

    @property
    def tokenizer(self) -> Tokenizer:
        """Errors: `ApiError` 400 for a model without one."""
        if self.model.tokenizer is None:
            raise ApiError(400, "the model has no tokenizer; send token ids", "no_tokenizer")
        return self.model.tokenizer

    @cached_property
    def grammars(self) -> Grammars:
        """What constrains replies. Errors: `ApiError` 400 for a model without a tokenizer."""
        form = format_of(self.tokenizer.chat_template)
        return Grammars(self.tokenizer, self.model.config.vocab_size, self.model.stop_ids, form)

    def start(self) -> None:
        """Start the engine's thread, once."""
        if not self.thread.started:
            self.thread.start()

    def resolve(self, name: str) -> str:
        """The variant that a model's name stands for ("": the base). Errors: `ApiError` 404.

        The name is only compared with those that are served, as `ADAPTER` or `BASE:ADAPTER`.
        """
        if name in (self.name, *self.aliases):
            return ""
        for adapter in self.adapters:
            if name == adapter or name in (f"{base}:{adapter}" for base in (self.name, *self.aliases)):
                return adapter
        shown = json.dumps(name[:80])
        raise ApiError(404, f"the model {shown} does not exist here; GET /v1/models lists them", "model_not_found",
                       "/model")  # fmt: skip

    def listing(self) -> list[dict[str, Any]]:
        """The entries of `/v1/models`."""
        names = [self.name, *self.aliases, *(f"{self.name}:{adapter}" for adapter in self.adapters)]
        return [self._entry(name, None if name == self.name else self.name) for name in names]

    def add_adapter(self, name: str, path: str | Path) -> None:
        """Serve an adapter or expert patch beside the base. Call before the start, or on the engine's thread.

        Errors: `ConfigError` or `CheckpointError`, one line.
        """
        if not re.fullmatch(r"[\w.-]{1,128}", name) or name in (self.name, *self.aliases):
            raise ConfigError(
                f"adapter name '{name[:40]}': use letters, digits, '.', '-', '_', and no model's own name"
            )
        model = apply_shared(self.model.model, path, self.directory, self.model.tokenizer)
        self.fingerprints[name] = self._adapted(Path(path))
        self.engine.add_variant(name, model)
        self.adapters = (*(other for other in self.adapters if other != name), name)

    def remove_adapter(self, name: str) -> None:
        """No longer serve it; replies under way end as they began. Call on the engine's thread."""
        self.adapters = tuple(other for other in self.adapters if other != name)
        self.engine.remove_variant(name)

    def deadline(self) -> float:
        """The moment (monotonic) at which a request that comes now has taken too long."""
        return time.monotonic() + self.settings.request_timeout

    def explain(self, error: Exception) -> ApiError:
        """What a client is told of a failure: no paths, no traces."""
        if isinstance(error, CoterieError):
            return as_api_error(error)
        log.error("request failed: %s", type(error).__name__, exc_info=error)
        return ApiError(500, "the server failed to answer this request", "server_error")

    def _entry(self, name: str, parent: str | None) -> dict[str, Any]:
        tokenizer = self.model.tokenizer
        template = tokenizer.chat_template if tokenizer is not None else None
        return {
            "id": name,
            "object": "model",
            "created": self.started,
            "owned_by": "coterie",
            "root": self.name,
            "parent": parent,
            "max_model_len": self.max_length,
            "capabilities": {
                "chat": template is not None,
                "tools": "tools" in (template or ""),
                "reasoning": "reasoning" in (template or "") or "<think>" in (template or ""),
                "embeddings": True,
                "vision": False,
                "moe": bool(self.model.model.routers()),
            },
        }

    def _fingerprint(self) -> str:
        """Of the weights (by the manifest where there is one), their form and this program."""
        files = self.model.manifest.get("files") or self.model.manifest.get("sha256")
        weight = self.model.model.embed.weight
        parts: list[Any] = [__version__, str(weight.dtype), self.model.config.to_dict(), files]
        if files is None:
            parts += [float(p.detach().double().sum()) for p in self.model.model.parameters()]
        return (
            "fp_" + hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
        )

    def _adapted(self, path: Path) -> str:
        """Of the base and the adapter's files."""
        digest = hashlib.sha256(self.fingerprints[""].encode())
        for file in sorted(path.iterdir()):
            if file.suffix in (".safetensors", ".json") and file.is_file():
                digest.update((file.name + file_sha256(file)).encode())
        return "fp_" + digest.hexdigest()[:16]


def default_name(path: str) -> str:
    """What a checkpoint is called when nobody says: its directory, or the hub's owner/name as it is."""
    local = Path(path).expanduser()
    if not local.is_dir():
        return path
    parts = [part for part in local.resolve().parts if part not in ("/", "model", "checkpoints", "latest")]
    return parts[-1] if parts else "model"
