"""Real llama.cpp runs the exported files: the same logits, the same greedy tokens, the same token ids.

Needs `llama-cpp-python` (it compiles llama.cpp; version 0.3.36 was used): without it these tests are skipped.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import coterie
from coterie.gguf.blocks import pack
from coterie.gguf.export import export_gguf
from coterie.nn.forward_context import ForwardContext
from tests.gguf.expected import unpack
from tests.gguf.models import KINDS, VOCAB, tokenizer, write
from tests.gguf.tokenizers import every_kind, random_texts

MISSING = importlib.util.find_spec("llama_cpp") is None
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING, reason="llama-cpp-python is not installed")]
LENGTH, REPLY = 60, 24


@contextmanager
def llama(path: Path, **settings: Any) -> Iterator[Any]:
    """The file opened by llama.cpp on one CPU core, keys and values kept in fp32."""
    import llama_cpp

    fixed = {"n_ctx": 256, "n_threads": 1, "n_gpu_layers": 0, "type_k": 0, "type_v": 0, "verbose": False}
    model = llama_cpp.Llama(str(path), **(fixed | settings))
    try:
        yield model
    finally:
        model.close()


def export(directory: Path, quant: str) -> Path:
    return Path(export_gguf(directory, directory / f"{quant}.gguf", quant).file)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_greedy_tokens_agree(tmp_path: Path, kind: str) -> None:
    """fp32 on both sides, longer than every window: logits to rounding, and a reply of the same tokens."""
    directory = write(kind, tmp_path / "m")
    ids = np.random.default_rng(1).integers(9, VOCAB, LENGTH).tolist()
    model = coterie.load(directory)
    with torch.no_grad():
        context = ForwardContext(torch.arange(LENGTH), (LENGTH,), None)
        ours = model.model.logits(model.model(torch.tensor(ids), context)).numpy()
    reply = model.generate(ids, max_tokens=REPLY, temperature=0.0, stop_ids=())
    with llama(export(directory, "f32"), logits_all=True) as theirs:
        theirs.eval(ids)
        # Its GELU is a table of 16-bit floats, and scores differ by some times their rounding. Rounding one
        # weight in 2^24 moves the logits of the tiny models with a delta rule, which reach 13, by 2e-3.
        tolerance = 0.05 if "gemma" in kind else 5e-3 if kind.startswith(("qwen3_5", "qwen3_next")) else 2e-4
        np.testing.assert_allclose(theirs.scores[:LENGTH], ours, atol=tolerance)
        generated = []
        for _ in range(REPLY):
            generated.append(int(theirs.scores[theirs.n_tokens - 1].argmax()))
            theirs.eval(generated[-1:])
    assert generated == list(reply.ids)


@pytest.mark.parametrize("quant", ["f16", "bf16", "q8_0", "q4_0", "mxfp4"])
def test_every_type_is_what_llama_cpp_means_by_it(tmp_path: Path, quant: str) -> None:
    """Weights that the type holds exactly: packed or in fp32, the logits differ by the activations' rounding
    alone.
    """
    # All experts are used, so that no rounding chooses others.
    directory = write("qwen3_moe", tmp_path / "m", num_experts_per_tok=8)
    state = load_file(directory / "model.safetensors")
    for name, tensor in state.items():
        kind = quant.upper() if "experts" in name or quant != "mxfp4" else "Q8_0"
        if tensor.dim() == 2 and not name.endswith("gate.weight"):
            state[name] = torch.from_numpy(unpack(pack(tensor.numpy(), kind, name), kind).copy())
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    ids = np.random.default_rng(1).integers(9, VOCAB, LENGTH).tolist()
    results = []
    for kind in ("f32", quant):
        with llama(export(directory, kind), logits_all=True) as model:
            model.eval(ids)
            results.append(model.scores[:LENGTH].copy())
    error = float(np.sqrt(((results[0] - results[1]) ** 2).mean()) / results[0].std())
    assert 0 < error < {"f16": 0.005, "bf16": 0.03}.get(quant, 0.06)


@pytest.mark.parametrize("quant", ["q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k"])
def test_mixes_mean_the_same_there_and_here(tmp_path: Path, quant: str) -> None:
    """The file in both programs: the logits differ by the rounding of llama.cpp's activations alone.

    It is 0.1 for Q8_0 in this model; any other meaning of the blocks is an error of 1 and more.
    """
    directory = write("llama", tmp_path / "m", hidden_size=256, intermediate_size=512)
    ids = np.random.default_rng(1).integers(9, VOCAB, LENGTH).tolist()
    file = export(directory, quant)
    model = coterie.load(file, dtype="float32")
    with torch.no_grad():
        context = ForwardContext(torch.arange(LENGTH), (LENGTH,), None)
        ours = model.model.logits(model.model(torch.tensor(ids), context)).numpy()
    with llama(file, logits_all=True) as theirs:
        theirs.eval(ids)
        error = float(np.sqrt(((theirs.scores[:LENGTH] - ours) ** 2).mean()) / ours.std())
    assert 0 < error < 0.3


@pytest.mark.parametrize("name", ["own", *every_kind()])
def test_text_becomes_the_same_ids(tmp_path: Path, name: str) -> None:
    ours = tokenizer() if name == "own" else every_kind()[name]
    changes = {"vocab_size": 600} | ({"vocab_size_per_layer_input": 600} if name == "gemma4" else {})
    directory = write("gemma4" if name == "gemma4" else "llama", tmp_path / "m", **changes)
    ours.save(directory)
    # What the receipt says of these: capitals beyond ASCII and separate accents.
    plain = name in ("gpt-4o", "tekken", "kimi-k2")
    with llama(export(directory, "f16"), vocab_only=True) as theirs:
        for text in random_texts(1500):
            if plain and not text.isascii():
                continue
            # Tags are ordinary tokens there, read wherever they stand.
            for special in (True,) if "<think>" in text else (False, True):
                found = theirs.tokenize(text.encode(), add_bos=False, special=special)
                assert found == ours.encode(text, allow_special=special), repr(text)
        tag = ours.token_id("<think>")
        assert tag is None or theirs.detokenize([tag]) == b"<think>"
        assert (theirs.token_bos(), theirs.token_eos()) == (
            ours.token_id(ours.named_tokens["bos_token"]),
            ours.eos_id,
        )
