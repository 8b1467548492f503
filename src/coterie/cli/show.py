"""`coterie inspect`, `coterie report` and `coterie doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from coterie.config import AttentionConfig, ConfigError, MLAConfig, ModelConfig, MoEConfig
from coterie.plan.counts import count_parameters, flops_per_token, kv_bytes_per_token, memory


def inspect(path: str, as_json: bool) -> None:
    """Print what the model of a directory or hub id is, from its config.json alone."""
    from coterie.weights.checkpoint import locate, read_config

    directory = locate(path)
    facts = describe(read_config(directory))
    if as_json:
        print(json.dumps(facts))
        return
    counts = facts["parameters"]
    total = counts["total"]
    print(f"{directory}: {facts['architecture']}")
    for line in facts["layers"]:
        print(f"  {line}")
    print(f"parameters   total {total:,}, in experts {counts['experts']:,} ({counts['experts'] / total:.0%})")
    print(
        f"active       {counts['active_all']:,} with embedding and head, {counts['active_head']:,} with head, "
        f"{counts['active_core']:,} with neither"
    )
    print(f"operations   {facts['flops_per_token'] / 1e6:,.1f} MFLOP per token (forward, context {facts['context']:,})")
    print(f"cache        {facts['kv_bytes_per_token']:,} bytes per token in bfloat16")
    for phase, size in facts["memory_bytes"].items():
        print(f"memory       {size / 1e6:,.1f} MB {phase}")


def describe(config: ModelConfig) -> dict[str, Any]:
    """The facts of `inspect` as JSON types."""
    context = min(config.max_positions, 4096)
    return {
        "architecture": (
            f"{config.family}, {config.num_layers} layers, width {config.width}, vocabulary {config.vocab_size:,}, "
            f"{'mixture of experts' if config.is_moe else 'dense'}, up to {config.max_positions:,} positions"
            + (", tied embeddings" if config.tie_embeddings else "")
        ),
        "layers": _layer_lines(config),
        "parameters": count_parameters(config).to_dict(),
        "context": context,
        "flops_per_token": flops_per_token(config, context),
        "kv_bytes_per_token": kv_bytes_per_token(config),
        "memory_bytes": {
            "to train with AdamW, activations aside": memory(config, "training").total,
            "to run in float32": memory(config, "inference", bytes_per_value=4).total,
            "to run in bfloat16": memory(config, "inference", bytes_per_value=2).total,
        },
    }


def _layer_lines(config: ModelConfig) -> list[str]:
    """Runs of equal layers in words: `layers 0-3: ...`."""
    lines, start = [], 0
    for index in range(1, config.num_layers + 1):
        if index < config.num_layers and config.blocks[index] == config.blocks[start]:
            continue
        name = f"layer {start}" if index == start + 1 else f"layers {start}-{index - 1}"
        block = config.blocks[start]
        lines.append(f"{name}: {_attention_words(block.attention)}; {_ffn_words(block.ffn)}")
        start = index
    return lines


def _attention_words(attention: AttentionConfig | MLAConfig) -> str:
    if isinstance(attention, MLAConfig):
        heads = f"{attention.num_heads} heads of {attention.head_dim}"
        return f"latent attention, {heads}, latent {attention.kv_rank} + {attention.rope_dim} for positions"
    words = [f"attention {attention.num_heads}/{attention.num_kv_heads} heads of {attention.head_dim}"]
    words.append(attention.mask if attention.window is None else f"{attention.mask} {attention.window}")
    words.append("no positions" if attention.rope is None else f"rope theta {attention.rope.theta:g}")
    if attention.qk_norm != "none":
        words.append(f"{attention.qk_norm} query/key norm")
    return ", ".join(words)


def _ffn_words(ffn: Any) -> str:
    if not isinstance(ffn, MoEConfig):
        return f"dense feed-forward of {ffn.width}"
    router = ffn.router
    shared = f" and a shared one of {ffn.shared_width}" if ffn.shared_width else ""
    on = " on the expert's input" if router.apply_to == "input" else ""
    return f"{router.num_experts} experts of {ffn.expert_width}, {router.top_k} per token ({router.score}{on}){shared}"


def report(run_dir: str, as_json: bool) -> None:
    """Draw `report.html` of a quickstart again and print the summary."""
    from coterie.recipes.quickstart import redraw
    from coterie.report.text import summary

    results, path = redraw(Path(run_dir))
    print(json.dumps(results.to_dict()) if as_json else f"{summary(results)}\n\nreport: {path}")


def doctor(as_json: bool) -> None:
    """Print what this machine offers, and exit with status 1 when something needed is missing."""
    import torch

    from coterie.train.precision import choose_device, choose_dtype

    device = choose_device("auto")
    free = shutil.disk_usage(".").free
    facts: dict[str, Any] = {
        "coterie": _version("coterie"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "training precision": str(choose_dtype("auto", device)).removeprefix("torch."),
        "oneDNN": torch.backends.mkldnn.is_available(),
        "memory": f"{_memory_bytes() / 1e9:.1f} GB",
        "free disk": f"{free / 1e9:.1f} GB",
        "transformers": _version("transformers") or "not installed (only tests need it)",
    }
    problems = []
    if free < 2e9:
        problems.append("less than 2 GB of free disk: a quickstart may not fit")
    if torch.get_num_threads() > (os.cpu_count() or 1):
        problems.append("more threads than cores: set OMP_NUM_THREADS or --threads")
    if as_json:
        print(json.dumps(facts | {"problems": problems}))
    else:
        print("\n".join(f"{name:<20}{value}" for name, value in facts.items()))
        print("\n".join(f"problem: {problem}" for problem in problems) if problems else "no problems found")
    if problems:
        raise SystemExit(1)


def _version(package: str) -> str | None:
    return importlib.metadata.version(package) if importlib.util.find_spec(package) else None


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        raise ConfigError("doctor: this system does not tell its memory size") from None
