"""The section of docs/results.md about one published model; `bench/tables.py` puts it on the page."""

from __future__ import annotations

from typing import Any

from markup import table

# Key of a step's figures -> how the proof reads, with the value in the type's own notation.
PROOFS = {
    "parameters": "{:,} parameters",
    "max_difference": "logits or log-probabilities differ by {:.1e} at most",
    "mean_difference": "{:.1e} on average",
    "gravity": "answers like the tuned model: {:.4f} (1: it, 0: the base)",
    "different_tensors": "{} tensors differ from the dense model",
    "overlap": "{:.1%} of the chosen experts are unchanged",
    "perplexity_before": "perplexity {:.2f} before",
    "perplexity_after": "{:.2f} after",
    "tokens": "{} tokens",
    "arguments": "arguments `{}`",
    "file_bytes": "{:,} bytes",
    "divergence": "divergence {:.1e} nats per token",
    "same_best_token": "same best token {:.1%}",
}


def real_model(record: dict[str, Any]) -> str:
    """One row per step, then one per program for answering and for tuning."""
    rows = []
    for name, found in record["steps"].items():
        proof = "; ".join(text.format(found[key]) for key, text in PROOFS.items() if key in found)
        rows.append([name, _seconds(found.get("cpu_seconds")), _bytes(found.get("peak_bytes")), proof])
    environment = record["environment"]
    answers = [
        [
            side,
            *(_spread(found[part]) for part in ("load", "prompt", "reply")),
            _bytes(found["peak_bytes"][0]),
        ]
        for side, found in record["answer"].items()
    ]
    tuned = [
        [side, _spread(found["step"]), _bytes(found["peak_bytes"][0]), f"{found['loss'][0]:.4f}"]
        for side, found in record["tune"].items()
    ]
    return "\n\n".join(
        [
            "## A published model through everything",
            "SmolLM2-135M-Instruct, from its GGUF file (Q4_1) through every command and back to GGUF. Times "
            "are of the processor and of whole commands with the start of Python; memory is the peak of the "
            "process. Steps without a peak ran inside the test. The last column is what the test measured. "
            f"Threads: {record['threads']}; the machine also did other work (load average "
            f"{environment['load_average']:.1f}). Machine: {environment['processor']}. "
            f"Command: `python bench/{environment['command']}`.",
            table(["step", "time", "peak memory", "found"], rows),
            f"The same file answers a prompt of {record['prompt_tokens']} tokens with "
            f"{record['reply_tokens']}: processor time, median (lowest to highest) of {record['rounds']} "
            "processes of each in turns. coterie and transformers unpack it into float32; llama.cpp keeps "
            "the file's blocks.",
            table(["", "load", "prompt", "reply", "peak memory"], answers),
            "One LoRA step on 1,024 tokens, rank 16 on attention and feed-forward, with the same first "
            "factors and data in float32, measured alike. The last column is the loss of the last step.",
            table(["", "step", "peak memory", "loss"], tuned),
        ]
    )


def _spread(found: list[float]) -> str:
    middle, low, high = found
    return f"{middle:.2f} s ({low:.2f} to {high:.2f})"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _bytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f} GB"
