"""Stop tokens from every file that may name them: which count, which are left out, which are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.checkpoints.token_facts import TokenFacts, gather_tokens
from coterie.config import CheckpointError
from coterie.proof.texts import TEXTS
from coterie.text.tokenizer import Tokenizer

ROWS = 400


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300)


def gather(
    directory: Path, config: dict[str, Any], generation: dict[str, Any], tokenizer: Tokenizer | None = None
) -> TokenFacts:
    return gather_tokens(directory, config, generation, tokenizer, ROWS)


@pytest.mark.parametrize(
    ("config", "generation", "stops", "note"),
    [
        ({}, {"eos_token_id": 7}, (7,), None),
        ({}, {"eos_token_id": [9, 7, 9]}, (7, 9), None),
        ({}, {"eos_token_id": []}, (), None),
        ({}, {"eos_token_id": None}, (), None),
        ({}, {}, (), None),
        ({"eos_token_id": 5}, {}, (5,), None),
        ({"eos_token_id": [5, 6]}, {"temperature": 0.5}, (5, 6), None),
        ({"eos_token_id": 5}, {"eos_token_id": None}, (5,), None),
        ({"eos_token_id": 5}, {"eos_token_id": [5, 7]}, (5, 7), None),
        (
            {"eos_token_id": 5},
            {"eos_token_id": 7},
            (7,),
            "config.json: 'eos_token_id' 5 is ignored; generation_",
        ),
        ({"text_config": {"eos_token_id": [3]}}, {}, (3,), None),
        (
            {"eos_token_id": 2, "text_config": {"eos_token_id": 3}},
            {},
            (2,),
            "text_config: 'eos_token_id' 3 is ig",
        ),
        ({}, {"eos_token_id": ROWS - 1}, (ROWS - 1,), None),
        ({}, {"eos_token_id": ROWS}, (), "names token 400, but the model has tokens 0 to 399; left out"),
        ({}, {"eos_token_id": [0, 99999]}, (0,), "names token 99999"),
        ({}, {"eos_token_id": -1}, (), "names token -1"),
        ({}, {"eos_token_id": 2**70}, (), "left out"),
        ({"eos_token_id": 99999}, {"eos_token_id": 1}, (1,), "config.json: 'eos_token_id' names token 99999"),
        ({"bos_token_id": 99999}, {}, (), "'bos_token_id' names token 99999"),
        ({}, {"pad_token_id": 400}, (), "generation_config.json: 'pad_token_id' names token 400"),
        ({"pad_token_id": -1}, {}, (), None),
    ],
)
def test_ids_of_every_file_and_form(
    config: dict[str, Any],
    generation: dict[str, Any],
    stops: tuple[int, ...],
    note: str | None,
    tmp_path: Path,
) -> None:
    found = gather(tmp_path, config, generation)
    assert found.stops == stops and set(found.sources) == set(stops)
    assert [note in line for line in found.notes] == [True] if note else not found.notes
    assert all("\n" not in line for line in found.notes)


@pytest.mark.parametrize("value", [[[1]], "2", True, [True], 2.0, {"id": 2}, [None], ["<eos>"]])
@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id", "pad_token_id"])
def test_what_is_no_id_is_refused_in_one_line(key: str, value: Any, tmp_path: Path) -> None:
    for config, generation, file in (
        ({key: value}, {}, "config.json"),
        ({}, {key: value}, "generation_config.json"),
    ):
        with pytest.raises(CheckpointError, match=f"{file}: '{key}' holds") as caught:
            gather(tmp_path, config, generation)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "strings"), [("END", ("END",)), (["a", "b", "a"], ("a", "b")), (None, ()), ([], ())]
)
def test_stop_strings_are_read(
    value: Any, strings: tuple[str, ...], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    assert gather(tmp_path, {}, {"stop_strings": value}, tokenizer).stop_strings == strings


@pytest.mark.parametrize("value", [3, [3], {"a": 1}, [["a"]], [""]])
def test_what_is_no_stop_string_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'stop_strings' must be a string or a list of strings"):
        gather(tmp_path, {}, {"stop_strings": value})


def test_the_tokenizer_adds_its_ends_and_files_that_disagree_with_it_are_named(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write = {
        "added_tokens.json": {"<think>": 3, "<|im_end|>": 77},
        "special_tokens_map.json": {"eos_token": {"content": "</s>"}, "pad_token": "<|endoftext|>"},
        "tokenizer_config.json": {"eos_token": "<|endoftext|>", "pad_token": {"content": "<|endoftext|>"}},
    }
    for name, content in write.items():
        (tmp_path / name).write_text(json.dumps(content))
    found = gather(tmp_path, {}, {"eos_token_id": [0, 350]}, tokenizer)
    assert found.stops == (0, 2, 350)
    assert found.sources[0] == ("generation_config.json", "tokenizer.json")
    assert found.notes == (
        "stop token 350 is in no vocabulary of the tokenizer (300 tokens)",
        "added_tokens.json: '<|im_end|>' is token 77, but tokenizer.json says 2 and decides",
        "tokenizer_config.json: 'eos_token' '<|endoftext|>' decides; special_tokens_map.json says '</s>'",
    )
