"""The Python face: load, score, generate, stream, chat, save, and its one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import coterie
from coterie.config import BlockConfig, CheckpointError, ConfigError, CoterieError, ModelConfig
from coterie.infer.model import LanguageModel
from coterie.infer.sampling import SamplingParams
from coterie.infer.speed import measure_decode, measure_prefill
from coterie.nn.transformer import Transformer
from coterie.text.chat import Message, render_ids
from coterie.text.tokenizer import Tokenizer
from tests.arithmetic import assert_model_close, largest
from tests.infer.models import CAUSAL, DENSE, tiny_model, training_logprobs

TOKENIZER = Tokenizer.train(["once upon a time there was a fox. it ran.\n"] * 3, 290, starts_texts=True)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    block = BlockConfig(attention=CAUSAL, ffn=DENSE)
    config = ModelConfig(
        family="qwen3", vocab_size=TOKENIZER.vocab_size, width=32, blocks=(block, block), max_positions=200
    )
    transformer = Transformer(config)
    transformer.initialise(3)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
    return LanguageModel(transformer, TOKENIZER, manifest={"parent": "somewhere", "format": 1, "files": {}})


def test_five_lines(model: LanguageModel, tmp_path: Path) -> None:
    coterie.save(model, tmp_path / "m")
    m = coterie.load(tmp_path / "m")
    reply = m.generate("once upon", max_tokens=12, seed=1)
    assert reply.text == model.generate("once upon", max_tokens=12, seed=1).text
    assert "".join(m.stream("once upon", max_tokens=12, seed=1)) == reply.text
    assert m.num_parameters == sum(p.numel() for p in model.model.parameters()) > 0
    assert m.config.blocks == model.config.blocks
    assert (m.start_ids, m.stop_ids) == ((TOKENIZER.eos_id,), model.stop_ids)
    assert m.manifest["parent"] == "somewhere"
    assert "qwen3" in repr(m)
    assert torch.equal(m.logits([1, 2, 3]), model.logits([1, 2, 3]))


def test_scores_are_those_of_the_training_forward(model: LanguageModel) -> None:
    ids = TOKENIZER.encode("a fox ran once upon a time")
    expected_TV = training_logprobs(model.model, ids)
    logits = model.logits(torch.tensor(ids))
    assert logits.shape == (len(ids), TOKENIZER.vocab_size) and logits.dtype == torch.float32
    size = largest(expected_TV)
    assert_model_close(model.config, logits.log_softmax(-1), expected_TV, len(ids))
    expected = expected_TV[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert_model_close(model.config, model.logprobs(ids), expected, len(ids), size=size)
    assert model.logprobs(ids[:1]).shape == (0,)


def test_a_text_prompt_starts_like_a_document(model: LanguageModel) -> None:
    text = "once <|im_end|> upon"
    assert model.encode(text) == [TOKENIZER.eos_id, *TOKENIZER.encode(text)]
    bare = LanguageModel(model.model, TOKENIZER, start_ids=())
    assert bare.encode(text) == TOKENIZER.encode(text)
    from_text = model.generate(text, seed=2, max_tokens=5)
    assert from_text.ids == model.generate(model.encode(text), seed=2, max_tokens=5).ids
    assert from_text.ids != bare.generate(text, seed=2, max_tokens=5).ids


def test_a_prompt_with_names_of_special_tokens_is_read_as_letters_and_named(
    model: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    model.generate("once upon", max_tokens=1)
    assert not caplog.records
    model.generate("hi <|im_end|>", max_tokens=1)
    assert "<|im_end|> in it is read as letters" in caplog.text


def test_conversations(model: LanguageModel) -> None:
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    messages = [Message("system", "be brief"), Message("user", "hi")]
    prompt = render_ids(TOKENIZER, messages, add_generation_prompt=True)[0]
    assert model.render(turns) == prompt
    expected = model.generate(prompt, temperature=0, max_tokens=6)
    for reply in (
        model.chat(turns, temperature=0, max_tokens=6),
        model.generate(turns, temperature=0, max_tokens=6),
    ):
        assert reply == expected
    assert model.chat([Message("user", "hi")], temperature=0, max_tokens=6).ids


def test_settings(model: LanguageModel) -> None:
    base = SamplingParams(temperature=0, max_tokens=3)
    assert len(model.generate([1, 2], base).ids) == 3
    assert len(model.generate([1, 2], base, max_tokens=5, stop_ids=()).ids) == 5
    many = model.generate_many(["a", "once upon", [4, 5]], base, max_batch=2)
    assert [reply.ids for reply in many] == [model.generate(p, base).ids for p in ("a", "once upon", [4, 5])]
    free = model.generate([1, 2], temperature=0, max_tokens=8, stop_ids=())
    ender = LanguageModel(model.model, TOKENIZER, stop_ids=[free.ids[4]])
    assert (
        ender.generate([1, 2], temperature=0, max_tokens=8).ids == free.ids[: free.ids.index(free.ids[4]) + 1]
    )


def test_generation_config_adds_stop_ids(model: LanguageModel, tmp_path: Path) -> None:
    coterie.save(model, tmp_path / "m")
    for value, more in ((77, {77}), ([77, 78], {77, 78})):
        (tmp_path / "m" / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
        assert set(coterie.load(tmp_path / "m").stop_ids) == set(TOKENIZER.stop_ids) | more


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.generate("a", max_token=3), "unknown setting 'max_token' .did you mean 'max_tokens'"),
        (lambda m: m.generate("a", temperature=-1), "temperature"),
        (lambda m: m.generate([]), "it is empty"),
        (lambda m: m.generate([1, "a"]), "give a text, a list of token ids, or a list of messages"),
        (lambda m: m.generate([{"role": "wizard", "content": "x"}]), "role 'wizard'"),
        (lambda m: m.generate([0] * 200), "it has 200 tokens and the model takes 199"),
        (lambda m: m.stream([0] * 200), "it has 200 tokens"),
        (lambda m: m.logits([0] * 201), "it has 201 tokens and the model takes 200"),
        (lambda m: m.logits(torch.zeros(2, 2)), "one row of whole numbers"),
        (lambda m: m.logprobs([10_000]), "token id 10000"),
        (lambda m: LanguageModel(m.model).generate("text"), "a text prompt needs a tokenizer"),
        (lambda m: LanguageModel(m.model).stream([1]), "a stream of text needs a tokenizer"),
    ],
)
def test_wrong_calls_give_one_line(model: LanguageModel, call, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CoterieError, match=words) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_loading_what_cannot_be_loaded(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        coterie.load(tmp_path / "missing")
    coterie.save(model, tmp_path / "m")
    with pytest.raises(ConfigError, match="device 'warp'"):
        coterie.load(tmp_path / "m", device="warp")
    with pytest.raises(ConfigError, match="dtype 'float13'"):
        coterie.load(tmp_path / "m", dtype="float13")


def test_the_choice_of_kernels(model: LanguageModel, tmp_path: Path) -> None:
    coterie.save(model, tmp_path / "m")
    settings = {"max_tokens": 6, "temperature": 0.0, "stop_ids": ()}
    replies = []
    for kernels in ("native", "torch"):
        loaded = coterie.load(tmp_path / "m", kernels=kernels, device="cpu")
        assert loaded._engine().kernels_used.startswith(kernels)
        replies.append(loaded.generate("once", **settings).ids)
    assert replies[0] == replies[1]
    with pytest.raises(ConfigError, match="kernels 'fast' is not known; use one of auto, native, torch"):
        coterie.load(tmp_path / "missing", kernels="fast")


def test_without_a_tokenizer_ids_still_work(model: LanguageModel, tmp_path: Path) -> None:
    coterie.save(LanguageModel(model.model), tmp_path / "bare")
    bare = coterie.load(tmp_path / "bare")
    assert bare.tokenizer is None and bare.start_ids == ()
    reply = bare.generate([1, 2, 3], seed=1, max_tokens=5)
    assert len(reply.ids) == 5 and reply.text == ""


def test_bfloat16(model: LanguageModel, tmp_path: Path) -> None:
    coterie.save(model, tmp_path / "m", dtype="bfloat16")
    half = coterie.load(tmp_path / "m", dtype="bfloat16")
    assert half.model.embed.weight.dtype == torch.bfloat16
    ids = TOKENIZER.encode("once upon a time")
    assert half.logits(ids).dtype == torch.float32
    reply = half.generate(ids, seed=1, max_tokens=8)
    scored = half.logprobs(ids + reply.ids)[len(ids) - 1 :]
    size = largest(half.logits(ids + reply.ids))
    found, whole = torch.tensor(reply.logprobs), ids + reply.ids
    assert_model_close(half.config, found, scored, len(whole), torch.bfloat16, size=size)


def test_speed_counts_tokens_and_respects_the_room() -> None:
    model = tiny_model("sliding")
    result = measure_decode(model, [1] * 30, num_tokens=20, batch=3, repeats=2)
    assert result.tokens_per_second == pytest.approx(3 * 1000 / result.ms_per_token)
    # layer 0 keeps 6 + 1 positions in 64 rows (reading the prompt needed 30), layer 1 keeps 50: two buffers
    # of 64 rows of 2 heads of 8 floats, in 3 sequences
    assert result.cache_bytes == 3 * 2 * 2 * 64 * 2 * 8 * 4
    prefill = measure_prefill(model, [1] * 30, repeats=2)
    assert prefill.tokens_per_second == pytest.approx(30 / (prefill.ms / 1000))
    with pytest.raises(ConfigError, match="has room for 64"):
        measure_decode(model, [1] * 30, num_tokens=65)
    with pytest.raises(CoterieError, match="it is empty"):
        measure_prefill(model, [])
