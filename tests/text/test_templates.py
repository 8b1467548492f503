"""The shipped chat templates equal transformers' rendering and hand-written texts, and are read back."""

# ruff: noqa: E501  # texts written by hand

import re

import pytest

from coterie.config.errors import DataError
from coterie.text import Message, Tokenizer, ToolCall, render, render_ids
from coterie.text.chat import shipped_template
from coterie.text.replies import parse_reply
from coterie.text.reply_formats import TEMPLATES, format_of

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Sum <é>",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer", "description": "First"},
                    "b": {"type": "array", "items": {"enum": ["x", "y"]}, "default": []},
                },
                "required": ["a"],
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
ADD = ToolCall("add", {"a": 1, "b": ["x"]})
NOW = ToolCall("now", {})
SYSTEM, ASK, REPLY, THANKS = (
    Message("system", "Be brief."),
    Message("user", "1+1?"),
    Message("assistant", "2"),
    Message("user", "Thanks"),
)
CALL = Message("assistant", "", None, (ADD,))
RESULT = Message("tool", "2", name="add")
THOUGHT = Message("assistant", "2", "Easy.")
TALKS = {
    "question": [ASK],
    "system": [SYSTEM, ASK, REPLY],
    "turns": [ASK, REPLY, THANKS, Message("assistant", "Bye")],
    "reasoning": [ASK, THOUGHT],
    "reasoning before": [ASK, THOUGHT, THANKS, Message("assistant", "Bye", "Polite.")],
    "call": [ASK, CALL, RESULT, REPLY],
    "calls": [
        ASK,
        Message("assistant", "Let me see.", "Tool.", (ADD, NOW)),
        RESULT,
        Message("tool", "noon", name="now"),
        THOUGHT,
        THANKS,
    ],
    "empty": [ASK, Message("assistant", "")],
}
MARKS = {
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"), "llama4": ("<|begin_of_text|>", "<|eot|>"), "mistral": ("<s>", "</s>"),
    "deepseek_v3": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), "deepseek_r1": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
}  # fmt: skip


def variables(name: str) -> dict[str, str]:
    bos, eos = MARKS.get(name, ("<|endoftext|>", "<|endoftext|>"))
    return {"bos_token": bos, "eos_token": eos}


def shown(name, talk, prompt=False, tools=None):
    return render(talk, shipped_template(name), prompt, tools, variables(name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("talk", TALKS)
def test_equal_to_transformers(name, talk):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [message.to_dict() for message in TALKS[talk]]
    for tools in (None, TOOLS):
        for prompt in (False, True):
            theirs, _ = utils.render_jinja_template(
                [messages], tools=tools, chat_template=shipped_template(name), add_generation_prompt=prompt, **variables(name)
            )  # fmt: skip
            assert shown(name, TALKS[talk], prompt, tools) == theirs[0]


H, E = "<|start_header_id|>", "<|end_header_id|>\n\n"
WRITTEN = {
    "chatml": ("turns", "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\nBye<|im_end|>\n"),
    "qwen3": ("calls", "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\nLet me see.\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": ["x"]}}\n</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response>\n<tool_response>\nnoon\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\nThanks<|im_end|>\n"),
    "llama3": ("call", f"<|begin_of_text|>{H}user{E}1+1?<|eot_id|>{H}assistant{E}" '{"name": "add", "parameters": {"a": 1, "b": ["x"]}}<|eot_id|>'
        f"{H}ipython{E}2<|eot_id|>{H}assistant{E}2<|eot_id|>"),
    "llama4": ("system", "<|begin_of_text|><|header_start|>system<|header_end|>\n\nBe brief.<|eot|><|header_start|>user<|header_end|>\n\n1+1?<|eot|><|header_start|>assistant<|header_end|>\n\n2<|eot|>"),
    "mistral": ("calls", "<s>[INST] 1+1? [/INST][THINK]Tool.[/THINK] Let me see."
        '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1, "b": ["x"]}}, {"name": "now", "arguments": {}}]</s>'
        '[TOOL_RESULTS] {"name": "add", "content": "2"}[/TOOL_RESULTS][TOOL_RESULTS] {"name": "now", "content": "noon"}[/TOOL_RESULTS]'
        "[THINK]Easy.[/THINK] 2</s>[INST] Thanks [/INST]"),
    "olmoe": ("turns", "<|endoftext|><|user|>\n1+1?\n<|assistant|>\n2<|endoftext|>\n<|user|>\nThanks\n<|assistant|>\nBye<|endoftext|>"),
    "deepseek_v3": ("call", "<｜begin▁of▁sentence｜><｜User｜>1+1?<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n"
        '{"a": 1, "b": ["x"]}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>'
        "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>2<｜tool▁output▁end｜><｜tool▁outputs▁end｜>2<｜end▁of▁sentence｜>"),
    "deepseek_r1": ("reasoning before", "<｜begin▁of▁sentence｜><｜User｜>1+1?<｜Assistant｜>2<｜end▁of▁sentence｜><｜User｜>Thanks<｜Assistant｜><think>\nPolite.\n</think>\n\nBye<｜end▁of▁sentence｜>"),
    "gpt_oss": ("call", "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n\nReasoning: medium\n\n"
        "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|><|start|>user<|message|>1+1?<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1, "b": ["x"]}<|call|>'
        "<|start|>functions.add to=assistant<|channel|>commentary<|message|>2<|end|><|start|>assistant<|channel|>final<|message|>2<|return|>"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_what_is_written_by_hand(name):
    talk, text = WRITTEN[name]
    assert shown(name, TALKS[talk]) == text


PROMPTS = {
    "chatml": "<|im_start|>assistant\n", "qwen3": "<|im_start|>assistant\n", "llama3": f"{H}assistant{E}",
    "llama4": "<|header_start|>assistant<|header_end|>\n\n", "mistral": " [/INST]", "olmoe": "<|assistant|>\n",
    "deepseek_v3": "<｜Assistant｜>", "deepseek_r1": "<｜Assistant｜><think>\n", "gpt_oss": "<|start|>assistant",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_asks_for_a_reply_and_tools_are_named(name):
    assert shown(name, [SYSTEM, ASK], True).endswith(PROMPTS[name])
    text = shown(name, [SYSTEM, ASK], True, TOOLS)
    assert "add" in text and "Sum <é>" in text and "now" in text and "Be brief." in text


def test_harmony_declares_tools_in_typescript():
    text = shown("gpt_oss", [SYSTEM, ASK], False, TOOLS)
    assert (
        "<|start|>developer<|message|># Instructions\n\nBe brief.\n\n# Tools\n\n## functions\n\nnamespace functions {\n\n// Sum <é>\ntype add = (_: {\n"
        '// First\na: number,\nb?: ("x" | "y")[], // default: []\n}) => any;\n\ntype now = () => any;\n\n} // namespace functions<|end|>'
    ) in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "reply",
    [
        REPLY,
        THOUGHT,
        CALL,
        Message("assistant", "", None, (ADD, NOW)),
        Message("assistant", "So:", "Hm.", (ADD, NOW)),
    ],
    ids=["text", "reasoning", "call", "calls", "everything"],
)
def test_replies_are_read_back(name, reply):
    template = shipped_template(name)
    prompt, whole = shown(name, [ASK], True), shown(name, [ASK, reply])
    start = len(prompt.removesuffix("<think>\n")) if not reply.reasoning else len(prompt)
    assert whole.startswith(prompt[:start])
    text = whole[start:].removesuffix("\n")
    for end in ("<|im_end|>", *(eos for _, eos in MARKS.values()), "<|endoftext|>"):
        text = text.removesuffix(end)
    opened = prompt.endswith("<think>\n") and reply.reasoning is not None
    assert parse_reply(text, format_of(template), opened) == reply


def test_what_a_family_cannot_say_is_refused():
    for name in ("mistral", "deepseek_v3"):
        with pytest.raises(DataError, match="can only come first"):
            shown(name, [ASK, SYSTEM])
    with pytest.raises(DataError, match="none of that name; it has chatml"):
        shipped_template("nothing")


def vocabulary(name: str) -> Tokenizer:
    bos, eos = MARKS.get(name, ("<|endoftext|>", "<|endoftext|>"))
    marks = re.findall(r"<[|｜][^<>\s']+?[|｜]>|<think>|</think>|\[/?[A-Z_]+\]", shipped_template(name))
    names = dict.fromkeys([eos, bos, "<|endoftext|>", *marks])
    made = Tokenizer.train(["Be brief. 1+1? 2"] * 3, 256 + len(names), list(names), shipped_template(name))
    made._config["bos_token"] = bos
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("talk", ["system", "turns", "reasoning", "call", "calls"])
def test_what_is_learnt_is_every_reply_and_its_end(name, talk):
    tokenizer, messages = vocabulary(name), TALKS[talk][: -1 if talk == "calls" else None]
    ids, mask = render_ids(tokenizer, messages, learn=None)
    assert tokenizer.decode(ids) == shown(name, messages)
    runs = "".join(
        tokenizer.decode([token]) if learnt else "\0" for token, learnt in zip(ids, mask, strict=True)
    )
    replies = [message for message in messages if message.role == "assistant"]
    found = [run for run in runs.split("\0") if run]
    assert len(found) == len(replies)
    for message, run in zip(replies, found, strict=True):
        opened = "</think>" in run and "<think>" not in run
        end = next(i for i in range(len(ids)) if tokenizer.decode(ids[: i + 1]).endswith(run))
        assert ids[end] in tokenizer.stop_ids or (name == "gpt_oss" and message.text)
        text = run.removesuffix(tokenizer.decode([ids[end]])) if ids[end] in tokenizer.stop_ids else run
        assert parse_reply(text, format_of(tokenizer.chat_template), opened) == message
