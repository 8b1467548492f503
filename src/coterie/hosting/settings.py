"""How a server behaves. Imports nothing heavy: the command line makes its options from these fields."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from coterie.config import Settings
from coterie.config.kernels import Kernels
from coterie.config.speculate import Speculate
from coterie.config.system import user_state
from coterie.hosting.keys import KeySettings


def _origin(given: str) -> str:
    """An origin as browsers send it. Errors: `ValueError` for what can never equal one."""
    origin = given.rstrip("/").lower()
    if origin in ("*", "null") or re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin):
        return origin.removesuffix({"http": ":80", "https": ":443"}.get(origin.partition("://")[0], "/"))
    raise ValueError(f"{given!r} is not an origin such as https://example.org:8080, nor '*'")


Origin = Annotated[str, AfterValidator(_origin)]


class ServeSettings(Settings):
    """How a server behaves: the one place that states names, bounds, defaults and descriptions.

    `coterie serve` takes every field but those of `NOT_OPTIONS` as an option.
    """

    host: str = Field("127.0.0.1", description="Address to listen on; one that others can reach needs a key.")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    api_key: SecretStr | None = Field(
        None, description="The key that requests must send; None asks for none."
    )
    keys: tuple[KeySettings, ...] = Field((), description="Keys with names and limits.")
    insecure_no_auth: bool = Field(False, description="Let everyone in, on any address.")
    allowed_hosts: tuple[str, ...] = Field((), description="A further name in Host headers to accept.")
    allowed_origins: tuple[Origin, ...] = Field(
        (), description="A web origin whose pages may call; '*' lets every page in."
    )
    tls_cert: Path | None = Field(None, description="Certificate file (PEM): serve https.")
    tls_key: Path | None = Field(None, description="Private key of the certificate (PEM).")
    slots: int = Field(16, ge=1, le=1024, description="Replies generated at once; more wait.")
    max_queue: int | None = Field(None, ge=0, description="Requests that may wait (default: 4 x slots).")
    prefill_chunk: int = Field(256, ge=1, description="Prompt tokens read in one step at most.")
    max_stall: float = Field(
        0.2, ge=0, description="Seconds that reading prompts may hold up replies, where possible."
    )
    request_timeout: float = Field(600.0, gt=0, description="Seconds that a request may take in all.")
    drain: float = Field(30.0, ge=0, description="Seconds that replies may go on after SIGTERM.")
    prefix_cache_mb: int = Field(256, ge=0, description="Memory (MiB) for starts of prompts read before.")
    deterministic: bool = Field(
        False, description="Same seed, same bytes, whatever else runs (slower without native kernels)."
    )
    kernels: Kernels = Field(
        "auto", description="What replies are computed on: the native step, torch, or auto (what is faster)."
    )
    speculate: Speculate = Field(
        "auto", description="Drafts of replies, verified several tokens a step: auto where it changes no bit."
    )
    strict: bool = Field(
        False, description="Refuse (400) fields that have no effect, which are named otherwise."
    )
    page: bool = Field(True, description="Serve the chat page at /.")
    feedback: Annotated[str | None, BeforeValidator(lambda given: None if given == "off" else given)] = Field(
        "feedback", description="Directory for the page's judgements of replies; 'off' keeps none."
    )
    store: bool = Field(True, description="Keep responses, conversations, files and jobs.")
    state_dir: Path | None = Field(
        None, description="Folder of what is kept (default: coterie's in the user's state folder)."
    )
    store_mb: int = Field(256, ge=1, description="Size (MiB) of what is kept; the least used goes first.")
    store_days: float = Field(30.0, gt=0, description="Days without use after which it is removed.")
    files_mb: int = Field(1024, ge=1, description="Size (MiB) of all uploaded files together.")
    allow_tuning: bool = Field(
        False, description="Let clients tune models (/v1/fine_tuning/jobs), which takes this machine's time."
    )
    log_requests: Literal["off", "meta", "full"] = Field("meta", description="off, meta (no text) or full.")
    adapter_dir: Path | None = Field(
        None, description="Folder whose adapters may be added while serving (needs a key)."
    )
    max_body: int = Field(32 * 2**20, ge=1024, description="Bytes that a request's body may have.")
    ping: float = Field(5.0, gt=0, description="Seconds of silence after which a stream sends a comment.")
    header_timeout: float = Field(
        10.0, gt=0, description="Seconds that a client may take to send its headers."
    )
    max_connections: int = Field(1000, ge=1, description="Connections open at once; more receive 503.")

    @property
    def state_path(self) -> Path:
        """The folder of the server's own state: `state_dir`, else coterie's as the XDG standard places it."""
        if self.state_dir is not None:
            return self.state_dir.expanduser()
        return user_state()

    @property
    def locked(self) -> bool:
        """Whether requests need a key."""
        return self.api_key is not None or bool(self.keys)


# The key comes from a file or the environment, never from the command line, where other users can read it.
NOT_OPTIONS = ("api_key", "keys", "max_body", "ping", "header_timeout", "max_connections")
