"""A published GGUF file, SmolLM2-135M-Instruct in Q4_1: the numbers of transformers, and its own split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from tests.real import smollm2_gguf

pytestmark = [pytest.mark.slow, pytest.mark.real]


def test_a_published_file(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    file = smollm2_gguf(tmp_path)
    loaded = Checkpoint.open(file).load("float32")
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype="float32"
    ).state_dict()
    found = Checkpoint.open(file).tensors
    assert set(found) == set(theirs) - {"lm_head.weight"}  # the head is the embedding
    for name in found:
        assert torch.equal(found.read(name), theirs[name]), name
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    # Every digit alone, which the file's split says by its name only; others read such a file as GPT-2's.
    assert [tokenizer.decode([token]) for token in tokenizer.encode("In 2026!")] == ["In", " ", *"2026", "!"]
    assert loaded.checkpoint.stops == (2,) and tokenizer.added_tokens["<|im_end|>"] == 2
    assert tokenizer.chat_template is not None and "<|im_start|>" in tokenizer.chat_template
