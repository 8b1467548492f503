"""What other servers need from a checkpoint: weights in their form, how to start them, how to prove the
result.

Nothing is guessed: a model, template or adapter that a server cannot take as it is, is refused in one line.
Parsers are named as in vLLM 0.33 and SGLang 0.5.23.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from coterie.adapters.tools import convert_adapter, inspect_adapter
from coterie.checkpoints.convert import convert_directory
from coterie.checkpoints.directory import locate, read_config
from coterie.config import CheckpointError, ConfigError, suggest
from coterie.gguf.export import export_gguf
from coterie.gguf.readback import gguf_difference
from coterie.text.reply_formats import format_of
from coterie.text.tokenizer import Tokenizer

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
# vLLM's parser for Qwen takes a reply without marks for reasoning, unless the template can switch thinking
# off: for other templates with `<think>` none is named there, and reasoning stays in the text.
REASONING: dict[str, dict[str, str]] = {
    "vllm": {"switch": "qwen3", "deepseek": "deepseek_r1", "gpt_oss": "openai_gptoss"},
    "sglang": {"switch": "qwen3", "marks": "qwen3", "deepseek": "deepseek-r1", "gpt_oss": "gpt-oss"},
}
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank may be
_ATTENTION_AND_DENSE = {"attention", "dense"}

Tell = Callable[[str], None]


def export_serve(
    model: str,
    out: Path,
    engine: str,
    adapters: Mapping[str, str] | None = None,
    name: str | None = None,
    quant: str = "q8_0",
    tell: Tell = lambda line: None,
) -> dict[str, Any]:
    """Write `out` (new): weights, adapters, `start.sh`, `verify.sh` and `serve.json`, whose content is
    returned.

    `adapters`: name -> directory. `name`: what requests call the model (default: its directory's). `quant`:
    of the GGUF file for llama.cpp and Ollama. Errors: `ConfigError` for what the engine cannot take,
    `CheckpointError` for files.
    """
    if engine not in ENGINES:
        raise ConfigError(
            f"export-serve: --for {engine} is not known{suggest(engine, ENGINES) or '; use ' + ', '.join(ENGINES)}"
        )
    if out.exists():
        raise CheckpointError(f"{out}: exists already; choose another --out or remove it")
    directory = locate(model)
    called = name or _name(directory)
    facts: dict[str, Any] = {"for": engine, "source": str(directory.resolve()), "name": called, "notes": []}
    facts |= parsers(directory, engine, facts["notes"])
    ranks = {key: _check_adapter(key, path, directory, engine) for key, path in (adapters or {}).items()}
    out.mkdir(parents=True)
    try:
        if engine in ("vllm", "sglang"):
            convert_directory(directory, out / "model", tell=tell)
            for key, path in (adapters or {}).items():
                convert_adapter(path, "peft", out / "adapters" / key, directory)
            facts["start"] = _start_directory(engine, called, facts, ranks)
        else:
            receipt = export_gguf(directory, out / "model.gguf", quant, tell).to_dict()
            facts |= {
                "quant": quant,
                "architecture": receipt["architecture"],
                "left_out": list(receipt["left_out"]),
            }
            tell("comparing answers")
            facts["difference"] = gguf_difference(directory, out / "model.gguf").to_dict()
            facts["start"] = _start_file(engine, called, read_config(directory).max_positions)
        facts["adapters"] = sorted(ranks)
        facts["verify"] = _verify(engine, facts)
        _write(out, facts)
    except BaseException:
        shutil.rmtree(out)
        raise
    return facts


def parsers(directory: Path, engine: str, notes: list[str]) -> dict[str, Any]:
    """How replies of the checkpoint are written, and which of the engine's parsers read them.

    What a user should know is added to `notes`. Errors: `ConfigError` for tool calls that the engine does not
    read.
    """
    template = Tokenizer.load(directory).chat_template
    found: dict[str, Any] = {"format": None, "tool_parser": None, "reasoning_parser": None}
    if template is None:
        notes.append("no chat template: only completions of text, no conversations")
        return found
    form = format_of(template).name
    found["format"] = form
    if engine not in TOOLS:
        if engine == "ollama" and "tools" in template:
            notes.append("Ollama has templates of its own language: the Modelfile's knows no tools")
        return found
    if re.search(r"\btools\b", template):
        if form == "chatml" and ("<tool_call>" not in template or "<function=" in template):
            raise ConfigError(
                f"{directory}: its chat template writes tool calls in a way that no parser of {engine} is known to read"
            )
        found["tool_parser"] = TOOLS[engine][form]
    marks = "switch" if "enable_thinking" in template else "marks" if "<think>" in template else ""
    key = form if form in ("deepseek", "gpt_oss") else marks
    found["reasoning_parser"] = REASONING[engine].get(key)
    if key and found["reasoning_parser"] is None:
        notes.append(
            f"{engine} is given no reasoning parser: what stands between <think> and </think> comes as content"
        )
    return found


def _check_adapter(name: str, path: str, base: Path, engine: str) -> int:
    """The highest rank of an adapter. Errors: `ConfigError` for one that the engine cannot add at run
    time.
    """
    merge = f"merge it first (coterie merge {base} {path} -o MERGED) and export that"
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"adapter '{name}': give a name of letters, digits, '.', '_' and '-'")
    if engine in ("llama.cpp", "ollama"):
        raise ConfigError(f"{path}: adapters are not written for {engine}; {merge}")
    about = inspect_adapter(path, base)
    others = sorted({row["group"] for row in about["groups"]} - _ATTENTION_AND_DENSE)
    if others or about["full"] or about["dora"]:
        what = "DoRA" if about["dora"] else "whole weights" if about["full"] else ", ".join(others)
        raise ConfigError(
            f"{path}: it changes {what}, which versions of {engine} read differently or not at all; {merge}"
        )
    return max(rank for row in about["groups"] for rank in row["ranks"])


def _start_directory(engine: str, name: str, facts: Mapping[str, Any], ranks: Mapping[str, int]) -> list[str]:
    """The command that serves a directory; `$here` is where the files lie."""
    port = str(PORTS[engine])
    if engine == "vllm":
        command = ["vllm", "serve", "$here/model", "--served-model-name", name]
        if facts["tool_parser"]:
            command += ["--enable-auto-tool-choice", "--tool-call-parser", facts["tool_parser"]]
        adapters = (
            ["--enable-lora", "--max-lora-rank", str(_rank(max(ranks.values()))), "--lora-modules"]
            if ranks
            else []
        )
    else:
        command = [
            "python",
            "-m",
            "sglang.launch_server",
            "--model-path",
            "$here/model",
            "--served-model-name",
            name,
        ]
        command += ["--tool-call-parser", facts["tool_parser"]] if facts["tool_parser"] else []
        adapters = (
            ["--enable-lora", "--max-lora-rank", str(max(ranks.values())), "--lora-paths"] if ranks else []
        )
    if facts["reasoning_parser"]:
        command += ["--reasoning-parser", facts["reasoning_parser"]]
    command += ["--host", "127.0.0.1", "--port", port]
    return [*command, *adapters, *(f"{key}=$here/adapters/{key}" for key in ranks)]


def _start_file(engine: str, name: str, positions: int) -> list[str]:
    """The command that serves a GGUF file."""
    if engine == "ollama":
        return ["ollama", "create", name, "-f", "$here/model.Modelfile"]
    place = ["--host", "127.0.0.1", "--port", str(PORTS[engine])]
    return [
        "llama-server",
        "-m",
        "$here/model.gguf",
        "--alias",
        name,
        "--jinja",
        "-c",
        str(min(positions, 32768)),
        *place,
    ]


def _verify(engine: str, facts: Mapping[str, Any]) -> list[list[str]]:
    """The command that proves the result, and the one that grades the server.

    Proof is the same log-probabilities where the server gives those of a prompt. llama.cpp and Ollama do not:
    there the file must answer as it did when it was written.
    """
    url = f"http://127.0.0.1:{PORTS[engine]}"
    if engine in ("vllm", "sglang"):
        proof = ["coterie", "verify", facts["source"], url, "--model-name", facts["name"]]
    else:
        found = facts["difference"]
        rounded = [
            "--tolerance",
            f"{max(1.1 * found['mean_logprob'], 1.1 * found['max_logprob'] / 20, 1e-4):.4f}",
        ]
        proof = ["coterie", "verify", facts["source"], "$here/model.gguf", *rounded]
    return [proof, ["coterie", "doctor", url]]


def _write(out: Path, facts: Mapping[str, Any]) -> None:
    (out / "serve.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    head = '#!/bin/sh\nhere=$(cd "$(dirname "$0")" && pwd)\n'
    start = head + "exec " + _line(facts["start"]) + ' "$@"\n'
    proof, grade = map(_line, facts["verify"])
    apart = "proved above; what the server itself lacks of the API is listed here"
    verify = f"{head}{proof} || exit\n{grade} || echo '{apart}'\n"
    for name, text in (("start.sh", start), ("verify.sh", verify)):
        (out / name).write_text(text, encoding="utf-8")
        (out / name).chmod(0o755)


def _line(command: list[str]) -> str:
    """A command for the shell; only `$here` is left to it."""
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
    """The directory's name, or its parent's where it is just called model."""
    path = directory.resolve()
    name = path.parent.name if path.name == "model" and path.parent.name else path.name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.").lower() or "model"
