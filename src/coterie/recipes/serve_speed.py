"""Measure in some seconds how fast a model is served here: a step of its layers, and reading an expert."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.expert_files import expert_reader
from coterie.checkpoints.quantise import quantise_model, types_of
from coterie.config import BlockConfig, ConfigError, ModelConfig, MoEConfig, Precision
from coterie.infer.engine import Engine
from coterie.infer.sampling import SamplingParams
from coterie.nn.materialise import materialise
from coterie.nn.transformer import Transformer
from coterie.recipes.step_time import by_layers

_LAYER = 300_000_000  # bytes of a measured layer's experts at most, but for those of two tokens
_FLUSHED = 96 << 20  # bytes written between steps, so that no weight stays in the processor's cache
_STEPS, _READS = 12, 24


def step_seconds(
    config: ModelConfig,
    dtype: torch.dtype,
    precision: Precision,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of one token of one sequence with all weights in memory.

    For every kind of layer, a model of one and a model of two such layers are timed. Their difference is the
    layer's time; the rest (embedding, head, drawing) counts once.
    """
    size = dtype.itemsize
    return by_layers(
        config,
        lambda block, number: _time(
            config, (_fewer_experts(block, config.width, size),) * number, dtype, precision, clock
        ),
    )


def _fewer_experts(block: BlockConfig, width: int, size: int) -> BlockConfig:
    """The same block with as many experts as a measurement can hold."""
    if not isinstance(block.ffn, MoEConfig):
        return block
    router = block.ffn.router
    each = 3 * block.ffn.expert_width * width * size
    number = max(2 * router.top_k, min(router.num_experts, _LAYER // each))
    if number >= router.num_experts:
        return block
    router = router.model_copy(update={"num_experts": number, "num_groups": 1, "top_groups": 1})
    return block.model_copy(update={"ffn": block.ffn.model_copy(update={"router": router})})


@torch.inference_mode()
def _time(
    config: ModelConfig,
    blocks: tuple[BlockConfig, ...],
    dtype: torch.dtype,
    precision: Precision,
    clock: Callable[[], float],
) -> float:
    """Median seconds of a step of a model of these layers, with cold caches."""
    model = _made(config.model_copy(update={"blocks": blocks, "num_mtp_layers": 0}), dtype, precision)
    try:
        engine = Engine(model, kernels="native")
    except ConfigError:
        engine = Engine(model, kernels="torch")
    engine.add(list(range(8)), SamplingParams(temperature=1, seed=0, max_tokens=1000, stop_ids=()))
    flushed, times = torch.zeros(_FLUSHED, dtype=torch.uint8), list[float]()
    for _ in range(_STEPS + 4):  # the prompt, and both numbers of threads
        flushed.add_(1)
        at = clock()
        engine.step()
        times.append(clock() - at)
    return median(times[4:])


def _made(config: ModelConfig, dtype: torch.dtype, precision: Precision) -> Transformer:
    """A model with weights that are quickly made and never overflow."""
    with torch.device("meta"):
        model = Transformer(config, dtype)
    quantise_model(model, precision)
    materialise(model, dtype, "cpu", types_of(model, precision))
    pattern = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02
    codes = torch.randint(0, 255, (1 << 20,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for tensor in (*model.parameters(), *model.buffers()):
        source = pattern if tensor.is_floating_point() else codes
        if tensor.dtype not in (torch.int8, torch.uint8) and not tensor.is_floating_point():
            continue
        flat = tensor.detach().view(-1)
        for start in range(0, len(flat), len(source)):
            flat[start : start + len(source)] = source[: len(flat) - start].to(tensor.dtype)
    return model.eval()


def read_seconds(checkpoint: Checkpoint, dtype: torch.dtype, precision: Precision) -> float:
    """Seconds to read one expert that is not in the cache of files, into the form that it is held in."""
    made = checkpoint.skeleton(dtype, None, precision)
    reader, forms = expert_reader(made, Checkpoint(checkpoint.path, checkpoint.name, checkpoint.gguf).tensors)
    names, draw, times = list(forms), random.Random(0), list[float]()
    layers = sorted({name.rpartition(".experts.")[0] for name in names})
    for _ in range(_READS):
        layer = draw.choice(layers)
        parts = [name for name in names if name.startswith(f"{layer}.experts.")]
        expert = draw.randrange(forms[parts[0]][1])
        targets = {name: forms[name][0].make(1) for name in parts}
        for file in reader.files:
            _forget(file)
        at = time.perf_counter()
        for name in parts:
            reader.expect(name, [expert])
        for name, target in targets.items():
            reader.read(name, expert, target)
        times.append(time.perf_counter() - at)
    return median(times)


def disk_seconds(size: int) -> float:
    """Seconds to read `size` bytes of a new file that is not in the cache of files."""
    piece, times = max(1 << 20, min(size, 16 << 20)), list[float]()
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(8):
            file.write(os.urandom(piece))
        file.flush()
        os.fsync(file.fileno())
        _forget(Path(file.name))
        memory = bytearray(piece)
        with open(file.name, "rb", buffering=0) as handle:
            for _ in range(8):
                at = time.perf_counter()
                handle.readinto(memory)
                times.append(time.perf_counter() - at)
    return median(times) * size / piece


def _forget(file: Path) -> None:
    """Have the system drop what it keeps of a file, where it can."""
    if hasattr(os, "posix_fadvise"):
        with open(file, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
