"""A mixture of twice the memory that it is given, experts on disk: the same tokens, speed and page faults.

    python bench/offload.py [--tokens 64] [--quant none] [--layers 12]

A random model is written (not measured). Then it generates in processes of their own: with all experts in
memory and no limit, and with experts on disk in a control group (version 1 or 2, as root) that holds half of
the model's bytes, Python and the cache of files included. Where no group can be made, the peak of the
process's memory must stay below the limit, and the files leave the cache before. Tokens are drawn at
temperature 1 from a random model, whose routers choose more evenly than trained ones: hits are few.
`predicted` is what `coterie plan serve` expects. With `--quant int8` take 30 layers: half of the model must
hold Python too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import RESULTS, environment, resident, write_json
from decode import COMMON

SHAPE = {
    "model_type": "qwen3_moe", "hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 64, "num_experts": 64, "num_experts_per_tok": 4,
    "moe_intermediate_size": 512, "vocab_size": 8192,
}  # fmt: skip
PROMPT = 48
SPARE = 64 << 20  # of the limit, for what a prompt takes and the cache of files


def write_model(folder: Path, layers: int) -> None:
    """A random model in bfloat16."""
    import torch

    from coterie.checkpoints.directory import save_model
    from coterie.families import config_from_hf
    from coterie.nn.transformer import Transformer
    from coterie.text.tokenizer import Tokenizer

    model = Transformer(config_from_hf(COMMON | SHAPE | {"num_hidden_layers": layers}))
    model.initialise(1)
    save_model(folder, model.to(torch.bfloat16), Tokenizer.train(["A fox counts.\n" * 20], 300))


def drop_cache(folder: Path) -> None:
    """Have the system forget what it keeps of the files."""
    for file in folder.glob("*.safetensors"):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def child(folder: str, where: str, room: int | None, quant: str | None, tokens: int) -> None:
    """Generate twice and print what it took: the first reply fills the memory, the second is measured."""
    from coterie.config.expert_place import ExpertPlace
    from coterie.infer.engine import Engine
    from coterie.infer.model import load
    from coterie.infer.sampling import SamplingParams

    place = ExpertPlace(where, room=room)  # type: ignore[arg-type]
    model = load(folder, "bfloat16", "cpu", quant=quant, experts=place).model
    engine = Engine(model, kernels="native")
    engine.count_experts()
    facts: dict[str, Any] = {}
    for name, start in (("first", 0), ("second", 5)):
        before = resource.getrusage(resource.RUSAGE_SELF)
        uses = [0, 0, 0] if model.store is None else [*model.store.figures.tolist(), model.store.bytes_read]
        engine.add(
            [(7 * token + start) % 300 for token in range(PROMPT)],
            SamplingParams(temperature=1, seed=7, max_tokens=tokens, stop_ids=()),
        )
        engine.step()
        at, cpu, ids = time.perf_counter(), time.process_time(), []
        while engine.busy:
            ids += [event.token for event in engine.step()]
        wall, cpu = time.perf_counter() - at, time.process_time() - cpu
        after = resource.getrusage(resource.RUSAGE_SELF)
        facts[name] = {"ids": ids, "seconds_per_token": wall / len(ids), "cpu_per_token": cpu / len(ids)}
        facts[name] |= {"major_faults": after.ru_majflt - before.ru_majflt}
        facts[name] |= {"minor_faults": after.ru_minflt - before.ru_minflt}
        if model.store is not None:
            now = [*model.store.figures.tolist(), model.store.bytes_read]
            facts[name] |= {"uses": now[0] - uses[0], "reads": now[1] - uses[1]}
            facts[name] |= {"bytes_read": now[2] - uses[2]}
    assert engine.expert_counts is not None
    facts["profile"] = {layer: counts.tolist() for layer, counts in engine.expert_counts.items()}
    facts |= {"peak_bytes": resident("VmHWM"), "store": model.store and model.store.facts()}
    print(json.dumps(facts))


def predict(folder: str, quant: str, room: int, profile: str) -> None:
    """Print what `coterie plan serve` expects of a token with this memory for experts and this profile."""
    import torch

    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.config import Precision
    from coterie.plan.serving import plan_serve, token_seconds
    from coterie.recipes.serve_speed import read_seconds, step_seconds

    checkpoint, precision = Checkpoint.open(folder), Precision.parse(quant)
    uses = {int(layer): counts for layer, counts in json.loads(Path(profile).read_text()).items()}
    rest = -plan_serve(checkpoint.config, 0, quant, PROMPT).room
    plan = plan_serve(checkpoint.config, room + rest, quant, PROMPT, uses=uses)
    step = step_seconds(checkpoint.config, torch.bfloat16, precision)
    read = read_seconds(checkpoint, torch.bfloat16, precision)
    seconds = token_seconds(checkpoint.config, plan, step, read)
    facts = {"hits": plan.hits, "step_seconds": step, "read_seconds": read, "seconds_per_token": seconds}
    print(json.dumps(facts))


@contextlib.contextmanager
def group(limit: int) -> Iterator[Path | None]:
    """A control group with this much memory, or None where none can be made."""
    made: Path | None = None
    for base, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        folder = Path(base) / f"coterie-offload-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / name).write_text(str(limit))
            made = folder
            break
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
    try:
        yield made
    finally:
        if made is not None:
            with contextlib.suppress(OSError):
                made.rmdir()


def run(arguments: list[str], within: Path | None = None) -> dict[str, Any]:
    """The facts of a process of this script, in a control group where one is given."""

    def enter() -> None:
        if within is not None:
            (within / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=enter)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--quant", action="append", default=None, help="Kinds: none, int8, int4.")
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": environment(), "tokens": options.tokens, "runs": {}}
    record["layers"] = options.layers
    with tempfile.TemporaryDirectory(dir=os.environ.get("OFFLOAD_DIR")) as temporary:
        folder = Path(temporary) / "model"
        write_model(folder, options.layers)
        for kind in options.quant or ["none"]:
            record["runs"][kind] = compare(folder, kind, options.tokens)
            print(json.dumps({k: v for k, v in record["runs"][kind].items() if k != "facts"}), flush=True)
            write_json(RESULTS / "offload.json", record)


def compare(folder: Path, kind: str, tokens: int) -> dict[str, Any]:
    """One kind of weights: all in memory, and half of the bytes with experts on disk."""
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.config import Precision

    whole = Checkpoint.open(folder).held_bytes("bfloat16", Precision.parse(kind))
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    memory = run(["child", str(folder), "memory", "0", kind, str(tokens)])
    base = memory["peak_bytes"] - whole  # the interpreter, PyTorch and the kernels
    drop_cache(folder)
    limit = whole // 2
    room = limit - base - (whole - memory_of_experts(folder, kind)) - SPARE
    profile = folder.parent / "profile.json"
    profile.write_text(json.dumps(memory.pop("profile")))
    predicted = run(["predict", str(folder), kind, str(room), str(profile)])
    drop_cache(folder)
    with group(limit) as made:
        disk = run(["child", str(folder), "disk", str(room), kind, str(tokens)], made)
    del disk["profile"]
    same = all(memory[part]["ids"] == disk[part]["ids"] for part in ("first", "second"))
    for facts in (memory, disk):
        for part in ("first", "second"):
            del facts[part]["ids"]
    return {
        "model_bytes": whole,
        "stored_bytes": stored,
        "limit_bytes": limit,
        "interpreter_bytes": base,
        "control_group": made is not None,
        "tokens_equal": same,
        "peak_below_limit": disk["peak_bytes"] <= limit,
        "memory": memory,
        "disk": disk,
        "predicted": predicted,
    }


def memory_of_experts(folder: Path, kind: str) -> int:
    """Bytes of all experts of the model as they are held."""
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.checkpoints.expert_files import expert_bytes
    from coterie.checkpoints.tensor_writer import as_dtype
    from coterie.config import Precision

    return expert_bytes(Checkpoint.open(folder).skeleton(as_dtype("bfloat16"), None, Precision.parse(kind)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        place, room, quant = sys.argv[3], int(sys.argv[4]), sys.argv[5]
        child(sys.argv[2], place, room if place == "disk" else None, quant, int(sys.argv[6]))
    elif sys.argv[1:2] == ["predict"]:
        predict(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    else:
        main()
