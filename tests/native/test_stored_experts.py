"""A native step with experts in files chooses the tokens of one with all of them in memory."""

from pathlib import Path

import pytest

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import CheckpointError
from coterie.config.expert_place import ExpertPlace
from coterie.infer.engine import Engine
from coterie.infer.sampling import SamplingParams
from coterie.nn.transformer import Transformer
from tests.checkpoints.test_expert_files import written

PROMPTS = [[1, 2, 3, 4, 5], [7, 8, 9]]


def replies(model: Transformer) -> list[list[int]]:
    engine = Engine(model, None, kernels="native")
    return [
        list(reply.ids)
        for reply in engine.generate(PROMPTS, SamplingParams(max_tokens=10, temperature=0, stop_ids=()))
    ]


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_the_same_tokens(tmp_path: Path, family: str) -> None:
    checkpoint = Checkpoint.open(written(tmp_path, family))
    whole = checkpoint.load("float32").model
    least = whole.routers()[0][1].config.num_experts
    size = checkpoint.load("float32", experts=ExpertPlace("disk")).model.store.layers[0].pool.nbytes
    few = checkpoint.load("float32", experts=ExpertPlace("disk", room=(least + 1) * size)).model
    assert replies(few) == replies(whole)
    used, missed = few.store.figures.tolist()
    assert 0 < missed < used and few.store.bytes_read >= missed * size // 2


def test_what_cannot_be_read_ends_the_step_with_its_error(tmp_path: Path, monkeypatch) -> None:
    checkpoint = Checkpoint.open(written(tmp_path, "qwen3_moe"))
    model = checkpoint.load("float32", experts=ExpertPlace("disk", room=100_000)).model
    engine = Engine(model, None, kernels="native")
    engine.add([1, 2, 3], SamplingParams(max_tokens=30, temperature=0, stop_ids=()))
    engine.step()

    def broken(*_: object) -> int:
        raise CheckpointError("model.safetensors: cannot be read")

    monkeypatch.setattr(model.store.reader, "read", broken)
    for layer in model.store.layers.values():
        layer.table.fill_(-1)
    with pytest.raises(CheckpointError, match="cannot be read"):
        engine.step()
