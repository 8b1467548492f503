"""Shared by the server benchmarks: a checkpoint, a server in another process, a client that times events."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from coterie.config import AttentionConfig, BlockConfig, ModelConfig, MoEConfig, RouterConfig
from coterie.infer.model import LanguageModel, save
from coterie.nn.transformer import Transformer
from coterie.primer import documents
from coterie.text.tokenizer import Tokenizer


def make_checkpoint(
    path: Path, width: int = 256, layers: int = 6, experts: int = 16, positions: int = 4096
) -> int:
    """A random Qwen3-MoE checkpoint that both programs read; the number of its parameters."""
    texts = [text for _, text in zip(range(400), (getattr(d, "text", d) for d in documents()), strict=False)]
    tokenizer = Tokenizer.train(map(str, texts), 4096)
    attention = AttentionConfig(num_heads=8, num_kv_heads=4, head_dim=32, qk_norm="head")
    router = RouterConfig(num_experts=experts, top_k=2, renormalize=True)
    block = BlockConfig(attention=attention, ffn=MoEConfig(expert_width=width, router=router))
    config = ModelConfig(
        family="qwen3_moe", vocab_size=tokenizer.vocab_size, width=width, blocks=(block,) * layers,
        max_positions=positions,
    )  # fmt: skip
    model = Transformer(config)
    model.initialise(0)
    with torch.no_grad():  # far from uniform, so that greedy replies are stable
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(2.0)
    save(LanguageModel(model, tokenizer), path)
    return sum(parameter.numel() for parameter in model.parameters())


class ServerProcess:
    """A server in its own process, with one thread for its arithmetic."""

    def __init__(self, command: list[str], url: str | None = None, wait: float = 120.0) -> None:
        descriptor, self._log = tempfile.mkstemp(suffix=".log")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self.process = subprocess.Popen(command, stdout=descriptor, stderr=descriptor, env=environment)
        os.close(descriptor)
        end = time.monotonic() + wait
        while True:
            text = Path(self._log).read_text(encoding="utf-8", errors="replace")
            found = url or next(iter(re.findall(r"(http://\S+) serves", text)), None)
            if found and answers(found):
                self.url = found
                return
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"{command[0]}: did not start: {' '.join(text.split())[-400:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        Path(self._log).unlink()


def coterie_server(path: Path, *options: str) -> ServerProcess:
    """`coterie serve` on a free port."""
    command = [
        sys.executable,
        "-m",
        "coterie.cli.main",
        "serve",
        str(path),
        "--port",
        "0",
        "--log-requests",
        "off",
    ]
    return ServerProcess([*command, "--name", "bench", *options])


def answers(url: str) -> bool:
    """Whether a server says it is well."""
    try:
        return request(url, "GET", "/health")[0] == 200
    except OSError:
        return False


def request(url: str, method: str, path: str, body: Any = None, timeout: float = 600) -> tuple[int, bytes]:
    """(status, body) of one call."""
    connection = _connect(url, timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), _JSON)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def lines(url: str, path: str, body: dict[str, Any], stop_after: int | None = None) -> list[dict[str, Any]]:
    """The data objects of a streamed answer, events or lines; hangs up after `stop_after` of them.

    Errors: `RuntimeError` for a refusal, or an error in the stream.
    """
    connection, found = _connect(url, 600), list[dict[str, Any]]()
    try:
        connection.request("POST", path, json.dumps(body), _JSON)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status}: {response.read()[:200]!r}")
        for line in response:
            data = line.removeprefix(b"data: ").strip()
            if not data.startswith(b"{"):
                continue
            found.append(json.loads(data))
            if "error" in found[-1] and found[-1]["error"]:
                raise RuntimeError(f"{path}: {found[-1]['error']}")
            if len(found) == stop_after:
                break
        return found
    finally:
        connection.close()


@dataclass
class Timing:
    """One streamed reply: seconds to the first text, between texts, in all; tokens by the server's count."""

    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    total: float = 0.0
    tokens: int = 0
    text: str = ""


def stream(url: str, body: dict[str, Any], stop_after: int | None = None) -> Timing:
    """Read a streamed chat reply, hanging up after `stop_after` events.

    Errors: `RuntimeError` when the stream breaks or is refused.
    """
    connection = _connect(url, 600)
    timing, begun = Timing(), time.perf_counter()
    last = begun
    try:
        sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
        connection.request("POST", "/v1/chat/completions", json.dumps(sent), _JSON)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {response.read()[:200]!r}")
        seen = 0
        finished = False
        for line in response:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(str(event["error"])[:200])
            usage = event.get("usage") or {}
            timing.tokens = usage.get("completion_tokens") or timing.tokens
            for choice in event.get("choices") or ():
                finished = finished or choice.get("finish_reason") is not None
                text = choice["delta"].get("content") or choice["delta"].get("reasoning_content")
                if text:
                    now = time.perf_counter()
                    if timing.first == 0.0:
                        timing.first = now - begun
                    else:
                        timing.gaps.append(now - last)
                    last, timing.text = now, timing.text + text
                    seen += 1
            if stop_after is not None and seen >= stop_after:
                return timing
        if not finished:
            raise RuntimeError("the stream ended without a reason")
        timing.total = time.perf_counter() - begun
        timing.tokens = timing.tokens or seen
        return timing
    finally:
        connection.close()


_JSON = {"content-type": "application/json"}


def _connect(url: str, timeout: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
