"""The Modelfile for importing a GGUF file into Ollama: context length, stop tokens, chat template.

Ollama has its own template language. The shipped ChatML template is written in it here. For any other,
Ollama looks at the template inside the file and uses its own version if it knows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import CheckpointError
from coterie.text.tokenizer import CHATML

# Ollama's default is 4,096 tokens for every model, and it allocates memory for the whole context at once.
_LONGEST_CONTEXT = 32768
_CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ if .Thinking }}<think>
{{ .Thinking }}
</think>

{{ end }}{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repeat_penalty",
}


def modelfile(checkpoint: Checkpoint, gguf_name: str, max_positions: int) -> str:
    """The text of a Modelfile for the file `gguf_name`, written from `checkpoint`, in the same directory.

    Errors: `CheckpointError` without a tokenizer.
    """
    tokenizer = checkpoint.tokenizer
    if tokenizer is None:
        raise CheckpointError(
            f"{checkpoint.path}: has no tokenizer.json, and Ollama needs the tokenizer to run a model"
        )
    stem = Path(gguf_name).stem
    lines = [f"# ollama create {stem.lower()} -f {stem}.Modelfile", f"FROM ./{gguf_name}"]
    context = min(max_positions, _LONGEST_CONTEXT)
    if context < max_positions:
        lines.append(f"# The model goes up to {max_positions}; more context takes more memory.")
    lines.append(f"PARAMETER num_ctx {context}")
    names = {number: text for text, number in tokenizer.added_tokens.items()}
    lines += [f"PARAMETER stop {_quoted(names[number])}" for number in checkpoint.stops if number in names]
    sampling = _sampling(checkpoint.generation_config)
    lines += [f"PARAMETER {theirs} {value}" for theirs, value in sampling.items()]
    if tokenizer.chat_template == CHATML.read_text(encoding="utf-8"):
        lines.append("# Without tools: Ollama writes them differently from what the model was taught.")
        lines.append(f'TEMPLATE """{_CHATML}"""')
    else:
        lines.append(
            "# The chat template is inside the file. `ollama show --template` tells whether Ollama knows it."
        )
    return "\n".join(lines) + "\n"


def _sampling(generation: dict[str, Any]) -> dict[str, float]:
    return {
        theirs: generation[ours]
        for ours, theirs in _SAMPLING.items()
        if isinstance(generation.get(ours), int | float)
    }


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
