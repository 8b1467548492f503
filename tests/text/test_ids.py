"""Ids are those of transformers: plain text, added words, and rendered conversations, for every layout.

The reference is `AutoTokenizer.from_pretrained` on the same directory.
"""

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.text import Message, StreamDecoder, Tokenizer, ToolCall, conversation_ids, render_ids
from coterie.text.messages import TextPart
from coterie.text.tokenizer import CHATML
from tests.text.layouts import CONTROL, LAYOUTS, TAGS, WORDS, write
from tests.text.test_templates import NAMES, TOOLS, vocabulary

transformers = pytest.importorskip("transformers")
ODD = (
    "été", "e\u0301", "日本語", "🙂👩‍👩‍👧", "\u200b", "\ufeff", "\u00a0", "\t", "\r\n", "ß",
    "ﬁ", "İ", "\u2581", "\u0301",    "\U000f0000", "<0x41>", "##x", "1234567", "\x00",
)  # fmt: skip
COMMON = ("hello", " ", "  ", "\n", "\n\n", "the answer", ".", "'s", "<b>", "{}")
PLAIN = (*COMMON, "[INST]", *ODD)
ADDED = tuple(token.content for token in WORDS)


def text_of(*more: str, size: int = 6) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(PLAIN + more) | st.text(max_size=3), max_size=size).map("".join)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(ours, transformers') of a layout, made once."""
    made: dict[str, tuple[Tokenizer, transformers.PreTrainedTokenizerBase]] = {}

    def get(layout: str):
        if layout not in made:
            directory = tmp_path_factory.mktemp("layout")
            write(layout, directory, CHATML.read_text())
            made[layout] = (
                Tokenizer.load(directory),
                transformers.AutoTokenizer.from_pretrained(directory),
            )
        return made[layout]

    return get


def conversation(draw_word) -> list[Message]:
    """A short conversation with every kind of message; `draw_word(role)` writes the texts."""
    call = ToolCall("add", {"a": draw_word("assistant"), "n": 1})
    return [
        Message("system", draw_word("system")),
        Message("user", (TextPart(draw_word("user")), TextPart(draw_word("user")))),
        Message("assistant", draw_word("assistant"), draw_word("assistant") or None, (call,)),
        Message("tool", draw_word("user"), name="add"),
        Message("assistant", draw_word("assistant")),
        Message("user", draw_word("user")),
    ]


def their_ids(theirs, talk: list[Message], tools, prompt: bool) -> list[int]:
    messages = [message.to_dict() for message in talk]
    return theirs.apply_chat_template(
        messages, tools=tools, add_generation_prompt=prompt, tokenize=True, return_dict=False
    )


def compare_text(ours: Tokenizer, theirs, text: str) -> None:
    wanted = theirs(text, add_special_tokens=False).input_ids
    assert ours.encode(text, allow_special=True) == wanted
    assert [*ours.start_ids, *wanted] == theirs(text).input_ids[: len(ours.start_ids) + len(wanted)]
    assert ours.encode_places(text).ids == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_texts(both, layout, data):
    check_texts(*both(layout), layout, data)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_texts(both, layout, data):
    check_texts(*both(layout), layout, data)


def check_texts(ours: Tokenizer, theirs, layout: str, data) -> None:
    text = data.draw(text_of(*ADDED, *TAGS, *CONTROL))
    compare_text(ours, theirs, text)
    # Without control tokens: as transformers splits special tokens, which leaves other added tokens whole.
    plain = ours.encode(text)
    assert not set(plain) & ours.special_ids - {
        ours.added_tokens.get("<unk>"),
        ours.added_tokens.get("[UNK]"),
    }
    if layout not in ("unigram", "word pieces"):  # transformers makes special tokens of their names there
        assert plain == theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
    talk = conversation(lambda role: data.draw(text_of(*ADDED, *(() if role == "user" else TAGS), size=3)))
    for tools, prompt in ((None, True), (TOOLS, False)):
        wanted = their_ids(theirs, talk, tools, prompt)
        assert conversation_ids(ours, talk, None, prompt, tools) == wanted
        assert prompt or render_ids(ours, talk, tools=tools).ids == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_typed_control_tokens_change_no_other_id(both, layout, data):
    """The ids before and after a typed token are those that transformers gives the text without it."""
    ours, theirs = both(layout)
    before, after = data.draw(text_of(*ADDED, size=3)), data.draw(text_of(*ADDED, size=3))
    name = data.draw(st.sampled_from(CONTROL + TAGS))
    ids = conversation_ids(ours, [Message("user", f"{before} x{name}x {after}")], None, True)
    names = set(CONTROL + TAGS)
    control = [token for token in ids if token in {ours.added_tokens[name] for name in names}]
    clean = conversation_ids(ours, [Message("user", f"{before} x x {after}")], None, True)
    assert clean == their_ids(theirs, [Message("user", f"{before} x x {after}")], None, True)
    assert control == [token for token in clean if token in {ours.added_tokens[name] for name in names}]
    # The same text with letters in the place of the token's first character has the same beginning.
    shared = next((at for at, (a, b) in enumerate(zip(ids, clean, strict=False)) if a != b), len(clean))
    assert shared >= len(theirs(f"<|im_start|>user\n{before}", add_special_tokens=False).input_ids) - 2


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "word pieces"])
@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_decoded_text(both, layout, data):
    ours, theirs = both(layout)
    ids = theirs(data.draw(text_of(*TAGS, *CONTROL, "ribosome", "ATP")), add_special_tokens=False).input_ids
    for skip in (False, True):
        stream = StreamDecoder(ours, skip)
        whole = "".join(map(stream.feed, ids)) + stream.finish()
        assert whole == ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


SPELLINGS = (
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "special_tokens_map",
    "added_tokens",
    "names",
)


@pytest.mark.parametrize("where", SPELLINGS)
@pytest.mark.parametrize("layout", ["byte-level, control above", "pieces, space first"])
def test_tokens_that_other_files_name(tmp_path, where, layout):
    write(layout, tmp_path, CHATML.read_text())
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    named = [token for token in content["added_tokens"] if token["content"] in CONTROL[1:] + TAGS]
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token not in named and token["content"] not in ADDED
    ]
    path.write_text(json.dumps(content))
    config_path = tmp_path / "tokenizer_config.json"
    config = json.loads(config_path.read_text())
    texts = [token["content"] for token in named]
    if where == "added_tokens_decoder":
        config[where] = {str(token.pop("id")): {**token, "rstrip": True} for token in named}
    elif where == "special_tokens_map":
        entry = {
            "content": "<|im_end|>",
            "lstrip": True,
            "rstrip": False,
            "normalized": False,
            "single_word": False,
        }
        (tmp_path / "special_tokens_map.json").write_text(
            json.dumps({"eos_token": entry, "additional_special_tokens": texts})
        )
    elif where == "added_tokens":
        (tmp_path / "added_tokens.json").write_text(
            json.dumps({token["content"]: token["id"] for token in named})
        )
    elif where == "names":
        config |= {"tool_token": "<tool_call>", "pad_token": "<think>", "eos_token": "<|im_end|>"}
    else:
        config[where] = texts
    config_path.write_text(json.dumps(config))
    ours, theirs = Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (
        "a <|im_start|>user \n<|im_end|> b",
        "<think> hm </think>\n\n <tool_call> x</tool_call>",
        "plain",
    ):
        compare_text(ours, theirs, text)
    assert {
        name: token.special for name, token in ((t.content, t) for t in theirs.added_tokens_decoder.values())
    } == {name: ours.is_special(name) for name in ours.added_tokens}
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").added_tokens == ours.added_tokens


def random_talk(rng: random.Random, reasoning: bool) -> list[Message]:
    """A conversation with parts, tools, reasoning and odd Unicode; control tokens are the model's alone."""

    def words(role: str) -> str:
        more = (*TAGS, "[INST]") if role == "assistant" else ()
        return "".join(rng.choice(ODD + COMMON + more) for _ in range(rng.randint(0, 5)))

    talk = [Message("system", words("system"))] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 4)):
        talk.append(Message("user", tuple(TextPart(words("user")) for _ in range(rng.randint(1, 3)))))
        thought = words("system") or None if reasoning and rng.random() < 0.5 else None
        if rng.random() < 0.4:
            arguments = rng.choice(({"a": words("system")}, {"a": 1, "b": [words("system")]}, {}))
            calls = (ToolCall("add", arguments), ToolCall("now", {}))[: rng.randint(1, 2)]
            talk.append(Message("assistant", words("assistant"), thought, calls))
            talk += [Message("tool", words("user"), name=call.name) for call in calls]
        talk.append(Message("assistant", words("assistant"), thought))
    return talk if rng.random() < 0.7 else talk[:-1]


def compare_talks(ours: Tokenizer, theirs, count: int, seed: str, shows_reasoning: bool) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        talk = random_talk(rng, shows_reasoning)
        tools, prompt = rng.choice((None, TOOLS)), rng.random() < 0.5
        wanted = their_ids(theirs, talk, tools, prompt)
        assert conversation_ids(ours, talk, None, prompt, tools) == wanted
        if not prompt and talk[-1].role == "assistant":
            rendered = render_ids(ours, talk, tools=tools, learn=[not m.tool_calls for m in talk])
            assert rendered.ids == wanted and any(rendered.mask)


def both_of(name: str, directory: Path):
    ours = vocabulary(name)
    ours._config["eos_token"] = ours.named_tokens["eos_token"]
    ours.save(directory)
    return Tokenizer.load(directory), transformers.AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("name", NAMES)
def test_conversations_of_shipped_templates(tmp_path, name):
    compare_talks(*both_of(name, tmp_path), 7, name, name in ("chatml", "llama3", "llama4", "mistral"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_thousand_conversations_of_shipped_templates(tmp_path, name):
    compare_talks(*both_of(name, tmp_path), 2000, name, name in ("chatml", "llama3", "llama4", "mistral"))
