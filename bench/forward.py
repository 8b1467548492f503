"""Reading a prompt of 512 tokens and writing 64: coterie's engine against transformers, on the same weights.

Six layers of width 768, vocabulary 8192, about 1536 active feed-forward columns per token; one dense model
and three mixtures of experts. transformers runs each of its ways to multiply experts in a loop of forward
passes with its own cache and arg-max (less work than its `generate`). All contenders run in one process and
take turns; every round has a new random prompt. Figures are medians over rounds, ratios are taken within a
round.

    python bench/forward.py [--quick] [--only NAME ...] [--threads 1 2] [--dtype float32 bfloat16] [--repeats
    N]
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from common import RESULTS, environment, median, median_ratio, write_json
from coterie.checkpoints.directory import load_model
from coterie.infer.engine import Engine
from coterie.infer.sampling import SamplingParams
from shapes import models, shape

PROMPT, NEW, VOCABULARY = 512, 64, 8192
SHAPE = shape(width=768, layers=6, heads=12, head_dim=64, vocabulary=VOCABULARY)
MODELS = models(columns=1536)
IMPLEMENTATIONS: dict[str, tuple[str | None, ...]] = {
    "dense": (None,),
    "llama4": (None,),
    "mixtral": ("eager", "grouped_mm"),
    "qwen3_moe": ("eager", "grouped_mm"),
}


@dataclass
class Contender:
    """`run(prompt, clock) -> (reply ids, seconds of the prompt, seconds of the rest)` by that clock."""

    name: str
    run: Callable[[list[int], Callable[[], float]], tuple[list[int], float, float]]
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    replies: list[list[int]] = field(default_factory=list)


def ours(name: str, path: str, dtype: torch.dtype) -> Contender:
    engine = Engine(load_model(path, dtype=dtype).model.eval(), prefill_chunk=PROMPT)

    def run(prompt: list[int], clock: Callable[[], float]) -> tuple[list[int], float, float]:
        start = clock()
        engine.add(prompt, SamplingParams(temperature=0, max_tokens=NEW))
        reply = [event.token for event in engine.step()]
        middle = clock()
        while engine.busy:
            reply += [event.token for event in engine.step()]
        return reply, middle - start, clock() - middle

    return Contender(f"{name}/coterie", run)


def theirs(name: str, path: str, dtype: torch.dtype, implementation: str | None) -> Contender:
    options = {} if implementation is None else {"experts_implementation": implementation}
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation="sdpa", **options
    ).eval()

    @torch.inference_mode()
    def run(prompt: list[int], clock: Callable[[], float]) -> tuple[list[int], float, float]:
        start = clock()
        cache = DynamicCache(config=model.config)
        out = model(input_ids=torch.tensor([prompt]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        reply = [int(out.logits[0, -1].argmax())]
        middle = clock()
        while len(reply) < NEW:
            out = model(input_ids=torch.tensor([reply[-1:]]), past_key_values=cache, use_cache=True)
            reply.append(int(out.logits[0, -1].argmax()))
        return reply, middle - start, clock() - middle

    label = "transformers" if implementation is None else f"transformers-{implementation}"
    return Contender(f"{name}/{label}", run)


def contenders(name: str, dtype: torch.dtype) -> list[Contender]:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as path:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**(SHAPE | MODELS[name])), dtype=dtype)
        model.generation_config.pad_token_id = None
        model.save_pretrained(path)
        del model
        made = [ours(name, path, dtype)]
        return made + [theirs(name, path, dtype, option) for option in IMPLEMENTATIONS[name]]


def measure(name: str, dtype: torch.dtype, threads: int, repeats: int) -> dict[str, Any]:
    """Rounds of one prompt each, in turn; the first round warms up and is thrown away.

    One thread: process CPU time, which neighbours on the machine disturb least. More: wall time.
    """
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    field_of = contenders(name, dtype)
    generator = torch.Generator().manual_seed(1)
    for round_number in range(repeats + 1):
        prompt = torch.randint(0, VOCABULARY, (PROMPT,), generator=generator).tolist()
        for contender in field_of:
            reply, prefill, decode = contender.run(prompt, clock)
            contender.replies.append(reply)
            if round_number:
                contender.prefill.append(prefill)
                contender.decode.append(decode)
    mine, *others = field_of
    run: dict[str, Any] = {"times": {}, "ratios": {}}
    for contender in field_of:
        same = [
            a == b
            for x, y in zip(contender.replies, mine.replies, strict=True)
            for a, b in zip(x, y, strict=True)
        ]
        run["times"][contender.name] = {
            "prefill_ms": round(1000 * median(contender.prefill), 2),
            "decode_ms_per_token": round(1000 * median(contender.decode) / (NEW - 1), 3),
            "same_tokens": round(sum(same) / len(same), 3),
        }
    for other in others:
        run["ratios"][f"{mine.name} : {other.name}"] = {
            "prefill": round(median_ratio(mine.prefill, other.prefill), 3),
            "decode": round(median_ratio(mine.decode, other.decode), 3),
        }
    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two rounds, one thread; prints, writes nothing")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"]
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "forward.json")
    options = parser.parse_args()
    repeats, threads = (2, [1]) if options.quick else (options.repeats, options.threads)
    record: dict[str, Any] = {
        "what": " ".join((__doc__ or "").split("\n\n    ")[0].split()),
        "environment": environment(),
        "repeats": repeats,
        "shape": SHAPE | {"prompt": PROMPT, "new": NEW},
        "models": MODELS,
        "runs": {},
    }
    for dtype in options.dtype:
        for count in threads:
            key = f"{dtype}, {count} thread{'s' if count > 1 else ''}"
            run = record["runs"][key] = {"times": {}, "ratios": {}}
            for name in options.only:
                for part, found in measure(name, getattr(torch, dtype), count, repeats).items():
                    run[part] |= found
                gc.collect()
            print(f"== {key}")
            for name, times in run["times"].items():
                print(f"{name:34s} {times}")
            for name, ratio in run["ratios"].items():
                print(
                    f"{name:60s} prefill {ratio['prefill']:6.3f}  decode {ratio['decode']:6.3f}", flush=True
                )
            if not options.quick:
                write_json(options.out, record)  # after each part: a run cut short keeps what it measured
    if not options.quick:
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
