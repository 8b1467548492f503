"""A result that was tuned with another chat template carries it, and who opens or merges it gets it."""

from pathlib import Path

import pytest

from coterie.adapters.attach import attach
from coterie.adapters.files import save_adapter
from coterie.adapters.merge import merge_checkpoint
from coterie.adapters.own_templates import adopt_templates, other_templates
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.config import AdapterConfig
from coterie.families import config_from_hf
from coterie.infer.model import load
from coterie.nn.transformer import Transformer
from coterie.text.template_sources import ChatTemplates, template_from
from coterie.text.tokenizer import Tokenizer
from tests.adapters.test_attach import randomise_factors
from tests.families.hf import _BASE, CONFIGS, randomise

OTHER = ChatTemplates.of(template_from("qwen3"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "base"
    tokenizer = Tokenizer.train(["some words to learn"] * 4, 300)
    model = Transformer(config_from_hf(_BASE | CONFIGS["qwen3"] | {"vocab_size": tokenizer.vocab_size}))
    randomise(model, 0)
    save_model(path, model, tokenizer)
    return path


def tuned(base: Path, out: Path, templates: ChatTemplates | None) -> Path:
    loaded = Checkpoint.open(base).load()
    assert loaded.tokenizer is not None
    if templates is not None:
        loaded.tokenizer.templates = templates
    attach(loaded.model, AdapterConfig(rank=2))
    randomise_factors(loaded.model)
    save_adapter(out, loaded.model, base, loaded.tokenizer)
    return out


def test_an_adapter_and_its_merge_carry_another_template(base: Path, tmp_path: Path) -> None:
    adapter = tuned(base, tmp_path / "adapter", OTHER)
    assert load(adapter).tokenizer.templates.named == OTHER.named
    assert load(adapter, template="llama3").tokenizer.chat_template == template_from("llama3")
    merged = merge_checkpoint(base, adapter, tmp_path / "merged").out
    assert load(merged).tokenizer.templates.named == OTHER.named


def test_an_adapter_with_the_template_of_its_base_holds_none(base: Path, tmp_path: Path) -> None:
    adapter = tuned(base, tmp_path / "adapter", None)
    assert not list(adapter.glob("*.jinja"))
    checkpoint = Checkpoint.open(base)
    before = checkpoint.tokenizer.templates.named
    assert not adopt_templates(checkpoint, adapter).named and checkpoint.tokenizer.templates.named == before
    assert not other_templates(base, checkpoint.tokenizer).named


def test_a_merge_keeps_the_named_templates_of_its_base(base: Path, tmp_path: Path) -> None:
    loaded = Checkpoint.open(base).load()
    loaded.tokenizer.templates = ChatTemplates({**OTHER.named, "tool_use": template_from("mistral")})
    save_model(tmp_path / "named", loaded.model, loaded.tokenizer)
    adapter = tuned(tmp_path / "named", tmp_path / "adapter", None)
    merged = merge_checkpoint(tmp_path / "named", adapter, tmp_path / "merged").out
    assert load(merged).tokenizer.template_for(True) == template_from("mistral")
