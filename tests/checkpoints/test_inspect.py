"""Facts with the files that state them, and contradictions by name."""

from __future__ import annotations

import json
from pathlib import Path

from coterie.checkpoints.directory import save_model
from coterie.checkpoints.inspect import inspect_model
from coterie.cli.inspect import _lines
from coterie.proof.texts import TEXTS
from coterie.text.tokenizer import Tokenizer
from tests.checkpoints.test_convert import make


def test_facts_name_their_files_and_contradictions_are_listed(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(TEXTS, 300)
    path = tmp_path / "model"
    save_model(path, make("qwen3_moe", vocab_size=tokenizer.vocab_size), tokenizer)
    generation = path / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [0, 99999], "temperature": 0.6, "num_beams": 4}))
    config = json.loads((path / "config.json").read_text())
    scaling = {"rope_type": "linear", "factor": 2.0}
    (path / "config.json").write_text(json.dumps(config | {"rope_scaling": scaling}))
    found = inspect_model(str(path))
    assert found.directory is not None and found.directory.tokenizer is not None
    assert found.directory.tokenizer.stops == {
        "<|endoftext|>": ["generation_config.json", "tokenizer.json"],
        "<|im_end|>": ["tokenizer.json"],
    }
    assert found.directory.sampling == {"temperature": 0.6, "num_beams": 4}
    starts = (
        "rope_scaling decides",
        "generation_config.json: 'eos_token_id' names",
        "generation_config.json: 'num_",
    )
    assert [note.startswith(start) for note, start in zip(found.directory.notes, starts, strict=True)] == [
        True
    ] * 3
    text = "\n".join(_lines(found))
    assert "<|endoftext|> (generation_config.json, tokenizer.json) or <|im_end|> (tokenizer.json)" in text
    assert "note         rope_scaling decides" in text
    generation.write_text('{"eos_token_id": [[1]]}')
    damaged = inspect_model(str(path)).directory
    assert damaged is not None and "'eos_token_id' holds [1]" in damaged.notes[0]
