"""The Modelfile with which Ollama takes in a GGUF file: context length, what ends a reply, the chat template.

Ollama has templates of its own language. The shipped ChatML template is written in it here; for any other,
Ollama looks at the one inside the file and uses its own version if it knows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coterie.checkpoints.directory import read_json
from coterie.gguf.vocabulary import stop_ids
from coterie.text.tokenizer import CHATML, Tokenizer

# Ollama's own default is 4,096 whatever the model, and memory for the context is taken at once.
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


def modelfile(directory: Path, gguf_name: str, max_positions: int) -> str:
    """The text of a Modelfile beside the file `gguf_name`, for the checkpoint `directory` that it was made
    from.
    """
    tokenizer = Tokenizer.load(directory)
    name = Path(gguf_name).stem.lower()
    lines = [f"# ollama create {name} -f {Path(gguf_name).stem}.Modelfile", f"FROM ./{gguf_name}"]
    context = min(max_positions, _LONGEST_CONTEXT)
    if context < max_positions:
        lines.append(f"# The model goes up to {max_positions}; more context takes more memory.")
    lines.append(f"PARAMETER num_ctx {context}")
    names = {number: text for text, number in tokenizer.added_tokens.items()}
    lines += [
        f"PARAMETER stop {_quoted(names[number])}"
        for number in stop_ids(directory, tokenizer)
        if number in names
    ]
    lines += [f"PARAMETER {theirs} {value}" for theirs, value in _sampling(directory).items()]
    if tokenizer.chat_template == CHATML.read_text(encoding="utf-8"):
        lines.append("# Without tools: Ollama writes them in another way than the model was taught.")
        lines.append(f'TEMPLATE """{_CHATML}"""')
    else:
        lines.append(
            "# The chat template is inside the file; see with `ollama show --template` whether Ollama knows it."
        )
    return "\n".join(lines) + "\n"


def _sampling(directory: Path) -> dict[str, Any]:
    path = directory / "generation_config.json"
    config = read_json(path) if path.is_file() else {}
    return {
        theirs: config[ours]
        for ours, theirs in _SAMPLING.items()
        if isinstance(config.get(ours), int | float)
    }


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
