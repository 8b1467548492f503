"""Export a checkpoint for another server: weights in its format, a start command, and a proof of the result.

Nothing is guessed: a model, template or adapter that a server cannot take as it is, is refused in one line.
Parsers are named as in vLLM 0.33 and SGLang 0.5.23.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from coterie.adapters.tools import convert_adapter, inspect_adapter
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import require_free
from coterie.checkpoints.convert import convert_directory
from coterie.config import CheckpointError, ConfigError, suggest
from coterie.config.temporaries import replace_with, temporary
from coterie.gguf.export import export_gguf
from coterie.gguf.readback import gguf_difference
from coterie.proof.difference import Difference
from coterie.text.reply_formats import format_of

Engine = Literal["vllm", "sglang", "llama.cpp", "ollama"]
ENGINES: tuple[str, ...] = get_args(Engine)
PORTS = {"vllm": 8000, "sglang": 30000, "llama.cpp": 8080, "ollama": 11434}
# How replies are written (our format) -> what reads tool calls and reasoning there.
TOOLS: dict[str, dict[str, str]] = {
    "vllm": {
        "chatml": "hermes",
        "llama3": "llama3_json",
        "llama4": "llama4_pythonic",
        "mistral": "mistral",
        "deepseek": "deepseek_v3",
        "gpt_oss": "openai",
    },
    "sglang": {
        "chatml": "hermes",
        "llama3": "llama3",
        "llama4": "pythonic",
        "mistral": "mistral",
        "deepseek": "deepseekv3",
        "gpt_oss": "gpt-oss",
    },
}
# vLLM's parser for Qwen takes a whole reply without marks for reasoning, unless the template can switch
# thinking off. For other templates with `<think>` vLLM gets no reasoning parser: reasoning stays in the text.
REASONING: dict[str, dict[str, str]] = {
    "vllm": {"switch": "qwen3", "deepseek": "deepseek_r1", "gpt_oss": "openai_gptoss"},
    "sglang": {"switch": "qwen3", "marks": "qwen3", "deepseek": "deepseek-r1", "gpt_oss": "gpt-oss"},
}
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank may be
_ATTENTION_AND_DENSE = {"attention", "dense"}

_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class ReplyParsers:
    """The format of a checkpoint's replies, and the engine's parsers for it (None: it has none).

    `notes`: what a user should know.
    """

    format: str | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GgufPart:
    """The GGUF file of an export. `difference`: of the answers with its numbers from the checkpoint's."""

    quant: str
    architecture: str
    left_out: tuple[str, ...]
    difference: Difference


@dataclass(frozen=True)
class ServeExport:
    """What was written for another server; `serve.json` holds it as JSON.

    `source`: the checkpoint's directory. `start`: the command that serves it. `verify`: the command that
    proves the result and the one that grades the server. In commands `$here` is the exported directory.
    """

    engine: Engine
    source: str
    name: str
    parsers: ReplyParsers
    adapters: tuple[str, ...]
    start: list[str]
    verify: list[list[str]]
    gguf: GgufPart | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types; the keys of a GGUF file are present only where there is one."""
        parsers = self.parsers
        facts: dict[str, Any] = {
            "for": self.engine,
            "source": self.source,
            "name": self.name,
            "notes": list(parsers.notes),
            "format": parsers.format,
            "tool_parser": parsers.tool_parser,
            "reasoning_parser": parsers.reasoning_parser,
            "adapters": list(self.adapters),
            "start": self.start,
            "verify": self.verify,
        }
        if self.gguf is None:
            return facts
        return facts | {
            "quant": self.gguf.quant,
            "architecture": self.gguf.architecture,
            "left_out": list(self.gguf.left_out),
            "difference": self.gguf.difference.to_dict(),
        }


def export_serve(
    model: str | Path | Checkpoint,
    out: Path,
    engine: str,
    adapters: Mapping[str, str] | None = None,
    name: str | None = None,
    quant: str = "q8_0",
) -> ServeExport:
    """Write the new directory `out`: weights, adapters, `start.sh`, `verify.sh` and `serve.json`.

    `adapters`: name -> directory. `name`: what requests call the model (default: its directory's). `quant`:
    of the GGUF file for llama.cpp and Ollama. Errors: `ConfigError` for what the engine cannot take,
    `CheckpointError` for files.
    """
    chosen = _engine(engine)
    require_free(out, "--out")
    checkpoint, adapters = Checkpoint.open(model), adapters or {}
    called = name or _name(checkpoint.path)
    parsers = reply_parsers(checkpoint, chosen)
    ranks = {key: _check_adapter(key, path, checkpoint, chosen) for key, path in adapters.items()}
    source = str(checkpoint.path.resolve())
    with temporary(out, directory=True) as part:
        file = None
        if chosen in ("vllm", "sglang"):
            convert_directory(checkpoint, part / "model", shown=out / "model")
            for key, path in adapters.items():
                convert_adapter(path, "peft", part / "adapters" / key, checkpoint)
            start = _start_directory(chosen, called, parsers, ranks)
        else:
            receipt = export_gguf(checkpoint, part / "model.gguf", quant)
            _log.info("comparing answers")
            apart = gguf_difference(checkpoint, part / "model.gguf")
            file = GgufPart(quant, receipt.architecture, receipt.left_out, apart)
            start = _start_file(chosen, called, checkpoint.config.max_positions)
        verify = _verify(chosen, source, called, file)
        exported = ServeExport(chosen, source, called, parsers, tuple(sorted(ranks)), start, verify, file)
        _write(part, exported)
        replace_with(part, out)
    return exported


def _engine(name: str) -> Engine:
    for engine in get_args(Engine):
        if name == engine:
            return engine  # type: ignore[no-any-return]
    hint = suggest(name, ENGINES) or "; use " + ", ".join(ENGINES)
    raise ConfigError(f"export-serve: --for {name} is not known{hint}")


def reply_parsers(checkpoint: Checkpoint, engine: Engine) -> ReplyParsers:
    """The format of the checkpoint's replies, and which of the engine's parsers read them.

    Errors: `ConfigError` for tool calls that the engine does not read, `CheckpointError` without a tokenizer.
    """
    if checkpoint.tokenizer is None:
        raise CheckpointError(f"{checkpoint.path}: has no tokenizer.json, and {engine} needs one")
    template = checkpoint.tokenizer.chat_template
    if template is None:
        return ReplyParsers(notes=("no chat template: only completions of text, no conversations",))
    form = format_of(template).name
    if engine not in TOOLS:
        lost = engine == "ollama" and "tools" in template
        note = "Ollama has its own template language: the template of the Modelfile has no tools"
        return ReplyParsers(form, notes=(note,) if lost else ())
    tool_parser = None
    if re.search(r"\btools\b", template):
        if form == "chatml" and ("<tool_call>" not in template or "<function=" in template):
            raise ConfigError(
                f"{checkpoint.path}: its chat template writes tool calls in a form that no known parser of "
                f"{engine} reads"
            )
        tool_parser = TOOLS[engine][form]
    marks = "switch" if "enable_thinking" in template else "marks" if "<think>" in template else ""
    key = form if form in ("deepseek", "gpt_oss") else marks
    reasoning_parser = REASONING[engine].get(key)
    unread = f"{engine} gets no reasoning parser: text between <think> and </think> is returned as content"
    return ReplyParsers(
        form, tool_parser, reasoning_parser, (unread,) if key and reasoning_parser is None else ()
    )


def _check_adapter(name: str, path: str, base: Checkpoint, engine: Engine) -> int:
    """The highest rank of an adapter.

    Errors: `ConfigError` for an adapter that the engine cannot add at run time.
    """
    merge = f"merge it first (coterie merge {base.path} {path} -o MERGED) and export that"
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"adapter '{name}': give a name of letters, digits, '.', '_' and '-'")
    if engine in ("llama.cpp", "ollama"):
        raise ConfigError(f"{path}: adapters are not written for {engine}; {merge}")
    about = inspect_adapter(path, base)
    others = sorted({group.group for group in about.groups} - _ATTENTION_AND_DENSE)
    if others or about.full or about.dora:
        what = "DoRA" if about.dora else "whole weights" if about.full else ", ".join(others)
        raise ConfigError(
            f"{path}: it changes {what}, which versions of {engine} read differently or not at all; {merge}"
        )
    return max(rank for group in about.groups for rank in group.ranks)


def _start_directory(engine: Engine, name: str, parsers: ReplyParsers, ranks: Mapping[str, int]) -> list[str]:
    """The command that serves a directory."""
    if engine == "vllm":
        command = ["vllm", "serve", "$here/model", "--served-model-name", name]
        if parsers.tool_parser:
            command += ["--enable-auto-tool-choice", "--tool-call-parser", parsers.tool_parser]
    else:
        command = ["python", "-m", "sglang.launch_server", "--model-path", "$here/model"]
        command += ["--served-model-name", name]
        command += ["--tool-call-parser", parsers.tool_parser] if parsers.tool_parser else []
    if parsers.reasoning_parser:
        command += ["--reasoning-parser", parsers.reasoning_parser]
    command += ["--host", "127.0.0.1", "--port", str(PORTS[engine])]
    if ranks:
        rank = max(ranks.values())
        highest = _rank(rank) if engine == "vllm" else rank
        listed = "--lora-modules" if engine == "vllm" else "--lora-paths"
        command += ["--enable-lora", "--max-lora-rank", str(highest), listed]
    return [*command, *(f"{key}=$here/adapters/{key}" for key in ranks)]


def _start_file(engine: Engine, name: str, positions: int) -> list[str]:
    """The command that serves a GGUF file."""
    if engine == "ollama":
        return ["ollama", "create", name, "-f", "$here/model.Modelfile"]
    command = ["llama-server", "-m", "$here/model.gguf", "--alias", name, "--jinja"]
    command += ["-c", str(min(positions, 32768))]
    return [*command, "--host", "127.0.0.1", "--port", str(PORTS[engine])]


def _verify(engine: Engine, source: str, name: str, file: GgufPart | None) -> list[list[str]]:
    """The command that proves the result, and the one that grades the server.

    The proof compares log-probabilities where the server returns those of a prompt. llama.cpp and Ollama do
    not, so there the file must answer as it did when it was written.
    """
    url = f"http://127.0.0.1:{PORTS[engine]}"
    proof = ["coterie", "verify", source]
    if file is None:
        proof += [url, "--model-name", name]
    else:
        # A tenth more than measured now; a single difference may be 20 times the mean.
        found = file.difference
        tolerance = max(1.1 * found.mean_logprob, 1.1 * found.max_logprob / 20, 1e-4)
        proof += ["$here/model.gguf", "--tolerance", f"{tolerance:.4f}"]
    return [proof, ["coterie", "doctor", url]]


def _write(out: Path, exported: ServeExport) -> None:
    text = json.dumps(exported.to_dict(), indent=2, ensure_ascii=False)
    (out / "serve.json").write_text(text + "\n", encoding="utf-8")
    head = '#!/bin/sh\nhere=$(cd "$(dirname "$0")" && pwd)\n'
    start = head + "exec " + _line(exported.start) + ' "$@"\n'
    proof, grade = map(_line, exported.verify)
    apart = "proved above; parts of the API that the server itself lacks are listed here"
    verify = f"{head}{proof} || exit\n{grade} || echo '{apart}'\n"
    for name, text in (("start.sh", start), ("verify.sh", verify)):
        (out / name).write_text(text, encoding="utf-8")
        (out / name).chmod(0o755)


def _line(command: list[str]) -> str:
    """A command quoted for the shell; the shell expands only `$here`."""
    return " ".join(
        f'"$here"{shlex.quote(part[5:])}' if part.startswith("$here") else _with_here(part)
        for part in command
    )


def _with_here(part: str) -> str:
    before, found, after = part.partition("$here")
    return f'{shlex.quote(before)}"$here"{shlex.quote(after)}' if found else shlex.quote(part)


def _rank(rank: int) -> int:
    fitting = [known for known in _RANKS if known >= rank]
    if not fitting:
        raise ConfigError(f"adapters of rank {rank}: vLLM goes up to {_RANKS[-1]}; merge it first")
    return fitting[0]


def _name(directory: Path) -> str:
    """The directory's or file's name, or its parent's for a directory called model."""
    path = directory.resolve() if directory.is_dir() else directory.resolve().with_suffix("")
    name = path.parent.name if path.name == "model" and path.parent.name else path.name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.").lower() or "model"
