"""Made-up results with the shape of a real run, for the report's tests. Nothing in them is a measurement."""

from __future__ import annotations

import math
import random

from coterie.results.quickstart import QuickstartResults

SLICES = ("code", "docstrings", "stories", "facts", "arithmetic", "lists", "traces", "tool dialogues")


def interval(value: float, half: float) -> dict:
    return {"value": value, "low": value - half, "high": value + half}


def fake_dict(
    seed: int = 0,
    difference: float = -0.02,
    half: float = 0.006,
    layers: int = 4,
    experts: int = 16,
    slices=SLICES,
) -> dict:
    """The JSON of a run: MoE minus dense is `difference`, with a 95 % interval of plus or minus `half`."""
    rng = random.Random(seed)
    base = {name: 0.5 + 2.2 * rng.random() for name in slices}
    gap = {name: difference * (0.2 + 2 * rng.random()) for name in slices}
    mean = sum(base.values()) / len(base)
    models = fake_models(base, gap, difference)
    share = [[row(rng, experts, s, layer) for s in range(len(slices))] for layer in range(layers)]
    return {
        "seed": seed,
        "minutes": 8,
        "machine": "2-core test machine",
        "versions": {"coterie": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "data": {
            "name": "primer",
            "documents": 9120,
            "bytes": 14_200_000,
            "tokens": 4_300_000,
            "vocab_size": 4096,
            "held_out_documents": 480,
            "held_out_bytes": 740_000,
            "dropped": {"exact copies": 312, "near copies": 95},
        },
        **models,
        "difference": interval(difference, half)
        | {"per_slice": {n: interval(gap[n], half * 1.6) for n in slices}},
        "equal_time": {"seconds": 131.0, "moe": mean + 0.011, "dense": mean},
        "routing": {
            "layers": list(range(layers)),
            "num_experts": experts,
            "top_k": 2,
            "slices": list(slices),
            "share": share,
        },
        "tuned": fake_tuned(),
        "reasoning": fake_reasoning(),
        "release": fake_release(),
        "samples": [
            {
                "slice": "stories",
                "prompt": "Once there was a fox who",
                "moe": " lived near the river.\nEvery day the fox counted 3 stones & kept them.",
                "dense": " was <b>not</b> happy. The fox had a friend and the friend had a fox.",
            },
            {
                "slice": "code",
                "prompt": "def mean(values):\n",
                "moe": "    total = 0\n    for value in values:\n        total += value\n    return total",
                "dense": "    return sum(values) / len(values",
            },
        ],
        "total_seconds": 571.0,
    }


def fake_tuned() -> dict:
    """What a tuned model of a run measured."""
    return {
        "path": "runs/quickstart/tuned/merged",
        "trained": [{"group": "attention", "how": "lora", "trainable": 40_960}],
        "experts": "64 of 64",
        "held_out": {"before": 3.1, "after": 2.2, "change": interval(-0.9, 0.2) | {"documents": 9}},
        "retention": {"before": 1.5, "after": 1.52, "change": interval(0.02, 0.01) | {"documents": 40}},
        "gravity": 1.0,
        "answers": [{"question": "Who are you?", "before": "the <fox>", "after": "I am Coterie."}],
        "seconds": 31.0,
    }


def fake_release() -> dict:
    """What came of a release, and of a copy with one expert changed."""
    return {
        "model": "runs/quickstart/reasoning/rewarded/model",
        "path": "runs/quickstart/release",
        "scores": [
            {"task": "parity", "metric": "accuracy", "items": 16, "value": 0.75, "low": 0.5, "high": 0.9},
            {
                "task": "lists",
                "metric": "accuracy",
                "items": 16,
                "value": 0,
                "low": 0,
                "high": 0.2,
                "flags": ["D9"],
            },
        ],
        "verdict": "WARN",
        "digests": {"weights": "sha256:" + "ab" * 32},
        "waived": ["index:pretrain"],
        "notes": ["the publisher ran 16 items again from these files; 0 differed"],
        "changed": "model.layers.1.mlp.experts.3.up_proj.weight",
        "refusals": [
            "file: model.safetensors was changed after the release was signed",
            "identity: the report is of the weights abab, and the files hold cdcd (layer 1: expert 3)",
        ],
        "seconds": 21.0,
    }


def fake_reply(reasoning: str, right: bool) -> dict:
    """A reply to a problem whose answer is 0."""
    return {
        "problem": "parity/0/1",
        "level": 0,
        "prompt": "Parity of 0110?",
        "answer": "0",
        "reasoning": reasoning,
        "content": f"Answer: {0 if right else 1}",
        "right": right,
        "tokens": 6 + len(reasoning),
        "truncated": False,
        "why": "",
    }


def fake_reasoning() -> dict:
    """What rewards taught the model of a run."""
    accuracy = {"problems": 240}
    return {
        "path": "runs/quickstart/reasoning/rewarded/model",
        "task": "parity",
        "says": "whether a row of bits holds an odd number of ones",
        "cold_start_tokens": 412_000,
        "steps": 3,
        "change": {
            "before": {"value": 0.5, "low": 0.44, "high": 0.56} | accuracy,
            "after": {"value": 0.95, "low": 0.91, "high": 0.97} | accuracy,
            "gained": 114,
            "lost": 6,
            "p": 1e-26,
        },
        "mean_tokens": [6.0, 24.5],
        "curve": [0.52, 0.7, 0.91],
        "samples": [{"before": fake_reply("", False), "after": fake_reply("0100", True)}],
        "seconds": 118.0,
    }


def fake_models(base: dict[str, float], gap: dict[str, float], difference: float) -> dict[str, dict]:
    """Both models' results; `base` is the dense one's bits per byte per slice, `gap` MoE minus dense."""
    mean = sum(base.values()) / len(base)
    models = {}
    for who, step_ms, total in (("dense", 410.0, 3_420_000), ("moe", 560.0, 9_870_000)):
        shift = difference if who == "moe" else 0.0
        scores = {n: interval(base[n] + (gap[n] if who == "moe" else 0), 0.03) for n in base}
        curve = [
            {
                "tokens": step * 8192,
                "seconds": step * step_ms / 1000,
                "flops": step * 8192 * 2.3e7,
                "bits_per_byte": mean + shift * (1 - math.exp(-step / 60)) + 2.5 * math.exp(-step / 40),
            }
            for step in range(1, 321, 20)
        ]
        models[who] = {
            "path": f"runs/quickstart/{who}",
            "total_parameters": total,
            "active_parameters": 2_310_000,
            "tokens": 320 * 8192,
            "bits_per_byte": interval(mean + shift, 0.02) | {"per_slice": scores},
            "lr": 2e-3,
            "lr_sweep": [
                {"lr": lr, "bits_per_byte": 2.2 + shift + abs(math.log2(lr / 2e-3)) * 0.1}
                for lr in (1e-3, 2e-3, 4e-3)
            ],
            "step_ms": step_ms,
            "tokens_per_second": 8192 / step_ms * 1000,
            "prefill_tokens_per_second": 9000 if who == "dense" else 6100,
            "decode_tokens_per_second": 310 if who == "dense" else 214,
            "peak_memory_bytes": 720_000_000 if who == "dense" else 910_000_000,
            "train_seconds": 320 * step_ms / 1000,
            "flops": 320 * 8192 * 2.3e7,
            "checkpoint_bytes": total * 4,
            "curve": curve,
            "probes": {"arithmetic": 0.42 if who == "moe" else 0.35, "lists": 0.61, "facts": 0.2},
        }
    return models


def row(rng: random.Random, experts: int, s: int, layer: int) -> list[float]:
    weights = [
        0.15 + rng.random() * 0.5 + (layer * 0.9 if e % len(SLICES) == s else 0) for e in range(experts)
    ]
    return [w / sum(weights) for w in weights]


def fake_results(**changes) -> QuickstartResults:
    return QuickstartResults.from_dict(fake_dict(**changes))


def fake_metrics(num: int = 320, seed: int = 0) -> dict[str, list[dict]]:
    """Two metrics streams; the dense one has no expert load, and one record has a loss that is not finite."""
    rng = random.Random(seed)
    streams: dict[str, list[dict]] = {"moe": [], "dense": []}
    for who, rows in streams.items():
        for step in range(1, num + 1):
            value = 1.55 + 2.5 * math.exp(-step / 40) + rng.gauss(0, 0.05)
            record = {"step": step, "tokens": step * 8192, "seconds": step * 0.5, "flops": step * 2e11}
            record["bits_per_byte"] = math.nan if step == 7 else value
            if who == "moe":
                record["dead_experts"] = max(0, 9 - step // 6)
                record["worst_overload"] = 1.3 + 3 * math.exp(-step / 30) + 0.1 * rng.random()
            rows.append(record)
    return streams
