"""Write docs/results.md from the records in bench/results; with --check, fail when it is not up to date."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from markup import table
from tables_decode import decoding
from tables_detectors import detectors
from tables_distill import distillation
from tables_eval import harness
from tables_gguf import gguf_blocks, gguf_load, int4_load, load_time
from tables_index import contamination_index
from tables_learn import learning
from tables_mixers import mixers
from tables_offload import offload
from tables_operations import operations
from tables_quantised import quantised
from tables_real import real_model
from tables_rl import reinforcement_speed
from tables_soak import soak, stall
from tables_speculate import drafts

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
INTRODUCTION = """# Results

`python bench/tables.py` draws every figure on this page from a record in `bench/results`. The machines are
shared and differ. Compare the ratios, each measured within one run, rather than absolute times. They are
of CPUs: no figure of a GPU is recorded yet (`make bench-gpu` would).
"""


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text()) if path.is_file() else None


def quickstart(record: dict[str, Any]) -> str:
    """One row per seed."""
    rows = []
    for run in record["runs"]:
        d, moe, dense, same = run["difference"], run["moe"], run["dense"], run["equal_time"]
        rows.append(
            [
                str(run["seed"]),
                f"{moe['tokens'] / 1e6:.2f} M",
                f"{moe['bits_per_byte']['value']:.4f}",
                f"{dense['bits_per_byte']['value']:.4f}",
                f"{d['value']:+.4f} ({d['low']:+.4f} to {d['high']:+.4f})",
                f"{same['moe']:.3f} / {same['dense']:.3f}" if same else "not measured",
                f"{moe['step_ms'] / dense['step_ms']:.2f}",
                f"{moe['decode_tokens_per_second'] / dense['decode_tokens_per_second']:.2f}",
                f"{run['total_seconds']:.0f} s",
            ]
        )
    head = "seed, tokens, MoE, dense, MoE minus dense, at equal time (MoE / dense), "
    head += "step time ratio, decode speed ratio, whole run"
    first = record["runs"][0]
    active = (
        f"{first['moe']['active_parameters']:,} and {first['dense']['active_parameters']:,} active parameters"
    )
    total = f"{first['moe']['total_parameters']:,} and {first['dense']['total_parameters']:,} in all"
    return (
        "## Mixture of experts against its dense twin\n\n"
        "Held-out bits per byte of the quickstart's two models after equal tokens (lower is better; 95 % "
        f"interval over documents). MoE and dense have {active}, {total}. 'At equal time' compares both at "
        "the last moment before the learning rate decays. "
        f"Generation runs on {first['moe'].get('decode_kernels') or 'torch'}. "
        f"Machine: {first['machine']}. Command: `python bench/{record['environment']['command']}`.\n\n"
        + table(head.split(", "), rows)
    )


def train_step(record: dict[str, Any]) -> str:
    """One table of ratios, a column per precision and thread count."""
    runs = record["runs"]
    names = list(dict.fromkeys(name for run in runs.values() for name in run["ratios"]))
    rows = [
        [f"`{name}`", *(f"{run['ratios'].get(name, float('nan')):.2f}" for run in runs.values())]
        for name in names
    ]
    environment = record["environment"]
    return (
        "## One training step\n\n"
        "Time of coterie's step over the other's; below 1, coterie is faster. A step is forward, backward "
        "and AdamW "
        "on a fresh random batch, so routing changes every step. Medians of "
        f"{record['repeats']} rounds; processor time for one thread, wall time for two. Machine: "
        f"{environment['processor']}; torch {environment['torch']}, transformers "
        f"{environment['transformers']}. Command: `python bench/{environment['command']}`.\n\n"
        + table(["step : against", *runs], rows)
    )


def forward(record: dict[str, Any]) -> str:
    """Ratios of prompts and of replies, a pair of columns per precision and thread count."""
    runs = record["runs"]
    names = list(dict.fromkeys(name for run in runs.values() for name in run["ratios"]))
    rows = [
        [
            f"`{name}`",
            *(f"{run['ratios'][name][part]:.2f}" for run in runs.values() for part in ("prefill", "decode")),
        ]
        for name in names
    ]
    head = ["reply : against", *(f"{part}, {key}" for key in runs for part in ("prompt", "reply"))]
    environment = record["environment"]
    return (
        "## A prompt of 512 tokens and a reply of 64\n\n"
        "Time of coterie's engine over a loop of transformers' forward passes; below 1, coterie is faster. "
        "Medians of "
        f"{record['repeats']} rounds. Machine: {environment['processor']}; transformers "
        f"{environment['transformers']}. Command: `python bench/{environment['command']}`.\n\n"
        + table(head, rows)
    )


def tune(record: dict[str, Any]) -> str:
    """One row per pair, time and memory per precision."""
    runs = record["runs"]
    names = list(dict.fromkeys(name for run in runs.values() for name in run["ratios"]))
    rows = [
        [f"`{name}`"]
        + [f"{run['ratios'][name][key]:.2f}" for run in runs.values() for key in ("cpu", "wall", "peak")]
        for name in names
    ]
    head = [
        "tuning : against",
        *(f"{part}, {key}" for key in runs for part in ("processor time", "wall time", "memory")),
    ]
    moe = next(iter(runs.values()))["contenders"]["moe/coterie"]
    commands = ", ".join(f"`python bench/{run['environment']['command']}`" for run in runs.values())
    loads = ", ".join(f"{run['environment']['load_average']:.1f}" for run in runs.values())
    rounds = ", ".join(f"{run['rounds']} ({key})" for key, run in runs.items())
    return (
        "## Tuning by LoRA\n\n"
        f"A step on {record['tokens']} tokens with rank {record['rank']} on attention and all 64 experts "
        f"({moe['trainable']:,} trainable parameters). It is compared with peft on transformers, with the "
        "same base, "
        "factors, data and losses, and with the dense twin of equal active parameters. Below 1, the first "
        "is faster or "
        f"smaller. Memory is the peak of the whole process. One thread, medians of rounds: {rounds}. The "
        "machine also "
        f"did other work (load average {loads} at the end), which affects wall times more than processor "
        "times. "
        "Commands: "
        f"{commands}.\n\n" + table(head, rows)
    )


def qlora(record: dict[str, Any]) -> str:
    """One row: the loaded model, and the peaks."""
    loading, bits = record["after_loading_mib"], record["bits"]
    row = [
        f"{record['parameters']:,}",
        f"{bits['experts']:.2f} / {bits['attention']:.2f} / {bits['embedding']:.0f}",
        f"{loading['peak']:.0f} MiB",
        f"{record['peak_mib']} MiB",
        f"{record['trainable']:,}",
    ]
    head = [
        "parameters",
        "bits of experts / attention / embedding",
        "peak of loading",
        "peak of tuning",
        "trainable",
    ]
    return (
        "## A billion parameters by QLoRA\n\n"
        f"Peak memory of the whole process, loading included. Settings: {record['quant']}, rank "
        f"{record['rank']} on "
        f"attention and all experts, steps of {record['tokens']} tokens. Command: "
        f"`python bench/{record['environment']['command']}`.\n\n" + table(head, [row])
    )


def bf16_agreement(record: dict[str, Any]) -> str:
    """One row per small model."""
    rows = []
    for name, found in record["families"].items():
        cells = [f"{100 * found[f'{side}_top1']:.1f} %" for side in ("coterie", "transformers")]
        cells += [f"{found[f'{side}_kl']:.4f}" for side in ("coterie", "transformers")]
        rows.append([f"`{name}`", *cells])
    head = ["model", "best token, coterie", "best token, transformers", "KL, coterie", "KL, transformers"]
    return (
        "## bfloat16\n\n"
        "How far logits in bfloat16 are from those of transformers in float32: share of positions with the "
        "same best "
        "token, and mean divergence in nats. The models are small and random, a hard case because their "
        "predictions "
        "are almost uniform. "
        f"Command: `python bench/{record['environment']['command']}`.\n\n" + table(head, rows)
    )


def serve(record: dict[str, Any]) -> str:
    """One row per number of clients and kind of prompts: tokens per second of each, our waiting times."""
    rows = []
    sides = record["servers"]
    for index, own in enumerate(sides["coterie"]):
        speeds = [f"{found[index]['tokens_per_second']:.0f}" for found in sides.values()]
        first, gap = own["first_token_seconds"], own["gap_seconds"]
        waits = [
            f"{first['p50']:.2f} / {first['p99']:.2f} s",
            f"{1000 * gap['p50']:.0f} / {1000 * gap['p99']:.0f} ms",
        ]
        rows.append([str(own["clients"]), "one beginning" if own["shared"] else "different", *speeds, *waits])
    head = ["clients", "prompts", *(f"{side}, tokens/s" for side in sides)]
    head += ["coterie: first token, median / p99", "between texts, median / p99"]
    environment = record["environment"]
    return (
        "## Serving\n\n"
        f"coterie, `transformers serve` and llama.cpp serve a mixture of experts of {record['parameters']:,} "
        f"parameters: {record['settings']['tokens']} tokens per reply, prompts of "
        f"{record['prompt_tokens']} tokens, "
        f"{record['settings']['rounds']} round(s), load average {environment['load_average']:.1f}. Command: "
        f"`python bench/{environment['command']}`.\n\n" + table(head, rows)
    )


def subset(record: dict[str, Any]) -> str:
    """One row per choice of experts."""
    runs, peaks = record["runs"], record["peak_bytes_of_a_step"]
    rows = []
    for choice, accuracy in record["mean_accuracy"].items():
        each = ", ".join(f"{run[choice]['accuracy']:.1f}" for run in runs)
        patch = f"{runs[0][choice]['patch_bytes'] / 1e6:.2f} MB"
        rows.append(
            [
                choice,
                f"{accuracy:.2f} %",
                each,
                patch,
                f"{peaks[choice] / 1e9:.2f} GB" if choice in peaks else "",
            ]
        )
    return (
        "## Tuning a quarter of the experts\n\n"
        "One domain of a small mixture gets a new table to learn. Trained are all experts, the quarter that "
        "`coterie select` finds, or a random quarter. The columns are accuracy on the table (mean and by "
        "seed), size of "
        "the patch, and peak memory of one step of a larger model. Command: "
        f"`python bench/{record['environment']['command']}`.\n\n"
        + table(["trained", "accuracy", "by seed", "patch", "peak of a step"], rows)
    )


def densify(record: dict[str, Any]) -> str:
    """One row per model."""
    steps, heal = record["steps"], record["heal_steps"]
    words = {
        "moe": f"the mixture, {steps} steps",
        "densified": "densified, not healed",
        "healed_by_distillation": f"densified, healed for {heal} steps by distillation",
        "healed_by_text": f"densified, healed for {heal} steps on the text",
        "dense_heal_steps": f"the same dense shape from random weights, {heal} steps",
        "dense_all_steps": f"the same dense shape from random weights, {steps + heal} steps",
    }
    rows = [[text, f"{record[key]['bits_per_byte']:.2f}"] for key, text in words.items()]
    return (
        "## From a mixture to a dense model\n\n"
        "Held-out bits per byte of a small mixture and of dense models of its active size; lower is "
        "better. Command: "
        f"`python bench/{record['environment']['command']}`.\n\n" + table(["model", "bits per byte"], rows)
    )


def plan(record: dict[str, Any]) -> str:
    """One row per configuration, predicted and measured."""
    rows = []
    for name, case in record["cases"].items():
        peak, step = case["peak_bytes"], case["step_seconds"]
        rows.append(
            [
                f"`{name}`",
                f"{peak['predicted'] / 1e9:.2f} / {peak['measured'] / 1e9:.2f} GB",
                f"{100 * case['memory_error']:+.1f} %",
                f"{step['predicted']:.2f} / {step['measured']:.2f} s",
                f"{100 * case['time_error']:+.1f} %",
            ]
        )
    head = [
        "configuration",
        "peak memory, predicted / measured",
        "error",
        "step, predicted / measured",
        "error",
    ]
    return (
        "## What `coterie plan tune` predicts\n\n"
        "Peak memory and processor time of a step. Memory that the C library holds in addition to the "
        "activations has "
        "no formula, so one factor per method was fitted to six configurations. The two `other-` "
        "configurations were "
        "not part of the fit. "
        f"Command: `python bench/{record['environment']['command']}`.\n\n" + table(head, rows)
    )


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, draw in (
        ("real.json", real_model),
        ("quickstart.json", quickstart),
        ("learn.json", learning),
        ("distill.json", distillation),
        ("rl.json", reinforcement_speed),
        ("train_step.json", train_step),
        ("forward.json", forward),
        ("decode.json", decoding),
        ("offload.json", offload),
        ("speculate.json", drafts),
        ("mixers.json", mixers),
        ("load.json", load_time),
        ("load_gguf.json", gguf_load),
        ("load_int4.json", int4_load),
        ("gguf_blocks.json", gguf_blocks),
        ("bf16_agreement.json", bf16_agreement),
        ("quantised.json", quantised),
        ("tune.json", tune),
        ("qlora_memory.json", qlora),
        ("subset.json", subset),
        ("plan.json", plan),
        ("densify.json", densify),
        ("operations.json", operations),
        ("index.json", contamination_index),
        ("detectors.json", detectors),
        ("eval.json", harness),
        ("serve.json", serve),
        ("soak.json", soak),
        ("stall.json", stall),
    ):
        record = load(name)
        if record is not None:
            parts.append(wrapped(draw(record)) + "\n")
    return "\n".join(parts)


def wrapped(part: str) -> str:
    """The paragraphs of a section at most 120 columns wide; headings and tables as they are."""
    blocks = part.split("\n\n")
    return "\n\n".join(
        block
        if block.startswith(("#", "|"))
        else textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False)
        for block in blocks
    )


def main() -> None:
    """Write the page, or check it."""
    page = render()
    if "--check" not in sys.argv:
        PAGE.write_text(page)
    elif not PAGE.is_file() or PAGE.read_text() != page:
        sys.exit(f"{PAGE.name} is not up to date; ")


if __name__ == "__main__":
    main()
