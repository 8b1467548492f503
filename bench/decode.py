"""A decoding step, one token for each of N sequences: native, PyTorch, transformers and llama.cpp.

Every contender is a process of its own with the same random weights, and decodes eight tokens after a prompt
of 160 when it is its turn; the turns alternate. Figures are processor seconds of one step, ratios are taken
within a round. `native` and `torch` are the engine with greedy sampling; `step` is the native step alone, as
llama.cpp's figure is (llama-cpp-python, where it is installed): it runs one sequence of the exported file.
Its int8 and int4 are Q8_0 and Q4_0, whose head is Q8_0: so is ours then.

    python bench/decode.py [--models small,mixture,olmoe,smollm2] [--kinds f32,bf16,int8,int4]
        [--sequences 1,4,16] [--contenders native,step,torch,transformers,llama.cpp]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, environment, median, median_ratio, write_json

PROMPT, TURN = 160, 8
# Shapes: the quickstart's size, a mixture of 610 M numbers, one of 3.56 B of which 0.64 B are active in
# OLMoE's shape (15 GB of memory in bfloat16 for two contenders), and SmolLM2-135M.
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "model_type": "qwen3_moe", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 64, "num_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 512, "vocab_size": 4096,
    },
    "mixture": {
        "model_type": "qwen3_moe", "hidden_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": 64, "num_experts": 64, "num_experts_per_tok": 8,
        "moe_intermediate_size": 512, "vocab_size": 32000,
    },
    "olmoe": {
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 16,
        "num_key_value_heads": 16, "head_dim": 128, "num_experts": 64, "num_experts_per_tok": 8,
        "moe_intermediate_size": 1024, "vocab_size": 50304, "tie_word_embeddings": False,
    },
    "smollm2": {
        "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
    },
}  # fmt: skip
COMMON = {
    "tie_word_embeddings": True, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    "rope_theta": 10000.0, "norm_topk_prob": True, "bos_token_id": 0, "eos_token_id": 1,
    "intermediate_size": 512,
}  # fmt: skip
GGUF = {"f32": "f32", "bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}
QUANT = {"int8": "int8,head=int8", "int4": "int4,head=int8"}


def write_model(name: str, folder: Path) -> None:
    """A random model with a tokenizer, in bfloat16 so that every contender has the same numbers."""
    import torch

    from coterie.checkpoints.directory import save_model
    from coterie.families import config_from_hf
    from coterie.nn.transformer import Transformer
    from coterie.text.tokenizer import Tokenizer

    model = Transformer(config_from_hf(COMMON | SHAPES[name]), torch.bfloat16)
    model.initialise(1)
    text = "A fox counts 1234 steps; she won't stop.\n"
    save_model(folder, model, Tokenizer.train([text * 20], 300), dtype="bfloat16")


def loaded(folder: str, kind: str) -> Any:
    """Our model."""
    from coterie.infer.model import load

    return load(folder, "float32" if kind == "f32" else "bfloat16", "cpu", quant=QUANT.get(kind)).model


def ours(folder: str, kind: str, sequences: int, kernels: str) -> Any:
    """Eight steps of the engine for each call."""
    from coterie.infer.engine import Engine
    from coterie.infer.sampling import SamplingParams

    model = loaded(folder, kind)
    engine = Engine(model, max_batch=sequences, prefill_chunk=PROMPT * sequences, kernels=kernels)  # type: ignore[arg-type]
    params = SamplingParams(temperature=0, max_tokens=3000, stop_ids=())
    for row in range(sequences):
        engine.add([(7 * token + row) % 300 for token in range(PROMPT)], params)
    engine.step()
    return lambda: [engine.step() for _ in range(TURN)]


def step_alone(folder: str, kind: str, sequences: int) -> Any:
    """Eight native steps without the engine."""
    import torch

    from coterie.infer.cache import SequenceCache
    from coterie.native.plan import NativePlan
    from coterie.nn.forward_context import ForwardContext

    model = loaded(folder, kind)
    plan, caches = NativePlan(model), [SequenceCache(model.config) for _ in range(sequences)]
    with torch.inference_mode():
        for row, cache in enumerate(caches):
            ids = torch.tensor([(7 * token + row) % 300 for token in range(PROMPT)])
            model(ids, ForwardContext.packed([PROMPT]), caches=[cache])
    following = [5 + row for row in range(sequences)]

    def turn() -> None:
        nonlocal following
        for _ in range(TURN):
            following = plan.step(following, caches).argmax(-1).tolist()

    return turn


def transformers(folder: str, kind: str, sequences: int) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if kind == "f32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    ids = torch.tensor([[(7 * token + row) % 300 for token in range(PROMPT)] for row in range(sequences)])
    with torch.inference_mode():
        state = model(ids, use_cache=True, logits_to_keep=1)

    @torch.inference_mode()
    def turn() -> None:
        nonlocal state
        for _ in range(TURN):
            following = state.logits[:, -1:].argmax(-1)
            state = model(following, past_key_values=state.past_key_values, use_cache=True)

    return turn


def llamacpp(folder: str, kind: str, threads: int) -> Any:
    import llama_cpp

    model = llama_cpp.Llama(
        str(Path(folder) / f"{GGUF[kind]}.gguf"), n_ctx=4096, n_threads=threads, n_threads_batch=threads,
        n_gpu_layers=0, verbose=False,
    )  # fmt: skip
    model.eval([(7 * token) % 300 for token in range(PROMPT)])
    return lambda: [model.eval([token]) for token in range(TURN)]


def child(contender: str, folder: str, kind: str, sequences: int, threads: int) -> None:
    """Load, then one turn for each line that comes in."""
    import torch

    torch.set_num_threads(threads)
    if contender in ("native", "torch"):
        turn = ours(folder, kind, sequences, contender)
    elif contender == "step":
        turn = step_alone(folder, kind, sequences)
    elif contender == "transformers":
        turn = transformers(folder, kind, sequences)
    else:
        turn = llamacpp(folder, kind, threads)
    turn()
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        turn()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)


def contenders(asked: str, kind: str, sequences: int) -> list[str]:
    """Those that can take part; `native` always does."""
    able = ["native", "step", "torch"]
    if kind in ("f32", "bf16"):
        able.append("transformers")
    if sequences == 1 and importlib.util.find_spec("llama_cpp") is not None:
        able.append("llama.cpp")
    return [name for name in able if name == "native" or name in asked.split(",")]


def measured(
    folder: Path, kind: str, sequences: int, threads: int, rounds: int, names: list[str]
) -> dict[str, Any]:
    """Milliseconds of a step by contender, and the ratios to the native step."""
    environ = os.environ | {"OMP_NUM_THREADS": str(threads)}
    running = {}
    for name in names:
        command = [sys.executable, __file__, "--child", name, str(folder), kind, str(sequences), str(threads)]
        running[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    for name, process in running.items():
        if answer(process) != "ready":
            raise SystemExit(f"decode: {name} with {kind} does not run")
    walls: dict[str, list[float]] = {name: [] for name in names}
    cpus: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, process in running.items():
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            wall, cpu = json.loads(answer(process))
            walls[name].append(1000 * wall / TURN)
            cpus[name].append(1000 * cpu / TURN)
    for process in running.values():
        process.kill()
        process.wait()
    # With one thread processor time is fair on a busy machine; with several, time on the clock is the point.
    of = cpus if threads == 1 else walls
    return {
        "milliseconds": {name: median(values) for name, values in of.items()},
        "ratio": {
            name: median_ratio(values, of["native"]) for name, values in of.items() if name != "native"
        },
        "spread": {name: (max(values) - min(values)) / median(values) for name, values in of.items()},
    }


def answer(process: subprocess.Popen[str]) -> str:
    """The next line of a contender."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def main() -> None:
    """Measure and record."""
    if "--child" in sys.argv:
        contender, folder, kind, sequences, threads = sys.argv[2:]
        child(contender, folder, kind, int(sequences), int(threads))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="small,mixture,smollm2")
    parser.add_argument("--kinds", default="f32,bf16,int8,int4")
    parser.add_argument("--sequences", default="1,4,16")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--contenders", default="native,step,torch,transformers,llama.cpp")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in given.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            write_model(name, Path(folder) / "m")
            for kind in given.kinds.split(","):
                if "llama.cpp" in contenders(given.contenders, kind, 1):
                    from coterie.gguf.export import export_gguf

                    export_gguf(Path(folder) / "m", Path(folder) / "m" / f"{GGUF[kind]}.gguf", GGUF[kind])
                for threads in map(int, given.threads.split(",")):
                    for sequences in map(int, given.sequences.split(",")):
                        names = contenders(given.contenders, kind, sequences)
                        found = measured(Path(folder) / "m", kind, sequences, threads, given.rounds, names)
                        rows.append(
                            {"model": name, "kind": kind, "threads": threads, "sequences": sequences} | found
                        )
                        print(json.dumps(rows[-1]), flush=True)
                        record = {"environment": environment(), "rounds": given.rounds, "rows": rows}
                        write_json(RESULTS / "decode.json", record)


if __name__ == "__main__":
    main()
