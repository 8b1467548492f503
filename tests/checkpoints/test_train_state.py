"""Training state on disk: exact, plain files, clear errors."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.checkpoints.train_state import TrainState, read_train_state, state_bytes, write_train_state
from coterie.config import CheckpointError

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)), max_size=5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(0, 2**62),
)
def test_a_round_trip_is_exact(tmp_path, specs, seconds, tokens):
    tensors = {f"t.{i}": (torch.randn(shape) * 100).to(dtype) for i, (dtype, shape) in enumerate(specs)}
    write_train_state(
        tmp_path, TrainState({"seconds": seconds, "tokens": tokens}, tensors, {"Log": {"n": [1]}})
    )
    read = read_train_state(tmp_path)
    assert read.progress == {"seconds": seconds, "tokens": tokens} and read.callbacks == {"Log": {"n": [1]}}
    assert read.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert read.tensors[name].dtype == value.dtype and torch.equal(read.tensors[name], value)


def test_transposed_tensors_keep_their_values(tmp_path):
    value = torch.arange(6.0).reshape(2, 3).t()
    write_train_state(tmp_path, TrainState({}, {"a": value}))
    assert torch.equal(read_train_state(tmp_path).tensors["a"], value)


def test_bytes_are_counted_by_dtype():
    assert (
        state_bytes({"a": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16), "c": torch.zeros(())})
        == 62
    )


def test_a_released_checkpoint_says_that_it_cannot_be_resumed(tmp_path):
    with pytest.raises(CheckpointError, match="no 'train' folder"):
        read_train_state(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", b"{"),
        ("state.json", b"[]"),
        ("optimizer.safetensors", b"\x80\x04pickle"),
        ("state.json", None),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, file, content):
    write_train_state(tmp_path, TrainState({"step": 1}, {"a": torch.ones(2)}))
    path = tmp_path / "train" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=file) as caught:
        read_train_state(tmp_path)
    assert "\n" not in str(caught.value)
