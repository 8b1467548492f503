"""One published model through everything, with figures: SmolLM2-135M-Instruct from its GGUF file.

The steps are the tests of `tests/real`; each command runs in its own process. Then the same model answers and
is tuned beside other programs: transformers reading the same file, peft, and llama.cpp where
llama-cpp-python is installed. Every contender runs in its own process, in turns, all in float32 except for
llama.cpp, which keeps the file's blocks. Their times are of the processor, because the machine may be shared.

    python bench/real_model.py [--threads N] [--rounds N] [--steps FIGURES.json]

`--steps` takes the figures that earlier runs of the tests left in $COTERIE_REAL_FIGURES, which add up there.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, environment, median, resident, write_json

ROOT = Path(__file__).resolve().parents[1]
PROMPT, REPLY = 256, 64  # tokens
TUNE_STEPS = 1  # after two that are not measured
ANSWERING, TUNING = ("coterie", "transformers", "llama.cpp"), ("coterie", "peft-dense")


def steps(threads: int) -> dict[str, Any]:
    """The figures of the tests, by step. Stops when one fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        environ = os.environ | {"COTERIE_REAL_FIGURES": str(file), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "pytest", "-rs", "-x", "tests/real"]
        done = subprocess.run(command, cwd=ROOT, env=environ, check=False)
        if done.returncode:
            raise SystemExit("a step failed; nothing was written")
        found: dict[str, Any] = json.loads(file.read_text())
        return found


def answer(side: str, file: str, threads: int) -> dict[str, float]:
    """Processor seconds to load `file`, read a prompt and write a reply of the likeliest tokens; the peak."""
    prompt = list(range(1000, 1000 + PROMPT))
    clock, begun = [time.process_time()], time.perf_counter()
    if side == "llama.cpp":
        import llama_cpp

        model = llama_cpp.Llama(file, n_ctx=PROMPT + REPLY, n_threads=threads, use_mmap=False, verbose=False)
        clock.append(time.process_time())
        model.eval(prompt)
        clock.append(time.process_time())
        for _ in range(REPLY):
            model.eval([model.sample(temp=0.0)])
    else:
        import torch

        torch.set_num_threads(threads)
        clock[0], begun = time.process_time(), time.perf_counter()
        (_coterie if side == "coterie" else _transformers)(file, prompt, clock)
    clock.append(time.process_time())
    load, first, rest = (late - early for early, late in itertools.pairwise(clock))
    wall, peak = time.perf_counter() - begun, resident("VmHWM")
    return {"load": load, "prompt": first, "reply": rest, "wall": wall, "peak_bytes": peak}


def _coterie(file: str, prompt: list[int], clock: list[float]) -> None:
    from coterie.checkpoints.directory import load_model
    from coterie.infer.engine import Engine
    from coterie.infer.sampling import SamplingParams

    engine = Engine(load_model(file, dtype="float32").model.eval(), prefill_chunk=PROMPT)
    clock.append(time.process_time())
    engine.add(prompt, SamplingParams(temperature=0, max_tokens=REPLY + 1))
    engine.step()
    clock.append(time.process_time())
    while engine.busy:
        engine.step()


def _transformers(file: str, prompt: list[int], clock: list[float]) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder, name = str(Path(file).parent), Path(file).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    clock.append(time.process_time())
    ids, cache = torch.tensor([prompt]), None
    with torch.inference_mode():
        for number in range(REPLY + 1):
            found = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids, cache = found.logits[:, -1:].argmax(-1), found.past_key_values
            if number == 0:
                clock.append(time.process_time())


def tune(side: str, folder: Path, threads: int) -> dict[str, Any]:
    """Processor seconds and memory of a LoRA step, as `bench/tune.py` measures them, and the last loss."""
    from tune import work

    found = work(f"smollm2/{side}", folder, "float32", TUNE_STEPS, threads)
    peak, loss = found["peak"] * 2**20, found["losses"][-1]
    return {"step": found["cpu"], "wall": found["wall"], "peak_bytes": peak, "loss": loss}


def prepare(folder: Path) -> str:
    """The GGUF file, the same model as a directory, and an adapter on it; returns the file."""
    sys.path.insert(0, str(ROOT))
    import torch
    from tests.real import smollm2, smollm2_gguf

    from coterie.adapters.attach import attach
    from coterie.adapters.files import save_adapter
    from coterie.checkpoints.directory import load_model
    from coterie.config import AdapterConfig

    (folder / "smollm2").symlink_to(smollm2())
    model = load_model(folder / "smollm2", dtype="float32").model
    attach(model, AdapterConfig.from_dict({"rank": 16, "train": {"attention": "lora", "dense": "lora"}}))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.01 * torch.randn(parameter.shape, generator=generator)
    save_adapter(folder / "smollm2-adapter", model, None, probes=False)
    return str(smollm2_gguf(folder))


def rounds(words: list[list[str]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each contender measured, in turns: by figure, the median, the lowest and the highest."""
    found: list[list[dict[str, float]]] = [[] for _ in words]
    for _ in range(options.rounds):
        for mine, own in zip(found, words, strict=True):
            command = [sys.executable, __file__, "--threads", str(options.threads), *own]
            environ = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
            run = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
            if run.returncode:
                raise SystemExit(f"{' '.join(own)}: {run.stderr[-2000:]}")
            mine.append(json.loads(run.stdout.splitlines()[-1]))
            print(*own[:2], mine[-1], file=sys.stderr, flush=True)
    return [
        {key: [measure([one[key] for one in mine]) for measure in (median, min, max)] for key in mine[0]}
        for mine in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=Path, help="figures of the tests' steps, instead of running them")
    parser.add_argument("--out", type=Path, default=RESULTS / "real.json")
    parser.add_argument("--answer", nargs=2, metavar=("SIDE", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--tune", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        print(json.dumps(answer(*options.answer, options.threads)))
        return
    if options.tune:
        print(json.dumps(tune(options.tune[0], Path(options.tune[1]), options.threads)))
        return
    record = {
        "what": " ".join((__doc__ or "").split("\n\n    ")[0].split()),
        "threads": options.threads,
        "rounds": options.rounds,
        "prompt_tokens": PROMPT,
        "reply_tokens": REPLY,
        "steps": json.loads(options.steps.read_text()) if options.steps else steps(options.threads),
    }
    answering = list(ANSWERING)
    if importlib.util.find_spec("llama_cpp") is None:
        answering.remove("llama.cpp")
        print("llama.cpp is left out: llama-cpp-python is not installed", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        file = prepare(Path(name))
        answers = rounds([["--answer", side, file] for side in answering], options)
        tuned = rounds([["--tune", side, name] for side in TUNING], options)
    record["answer"] = dict(zip(answering, answers, strict=True))
    record["tune"] = dict(zip(TUNING, tuned, strict=True))
    write_json(options.out, record | {"environment": environment()})
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
