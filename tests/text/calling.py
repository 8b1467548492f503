"""Small tokenizers with chat templates, and what a model writes with them: for tests of calls."""

from __future__ import annotations

import json

from coterie.text.messages import Message, ToolCall
from coterie.text.rendering import render, shipped_template
from coterie.text.reply_formats import format_of
from coterie.text.tokenizer import SPECIALS, Tokenizer

# The marks of every shipped template, so that one tokenizer serves them all.
_MARKS = (
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>", "<|eot_id|>",
    "<|header_start|>", "<|header_end|>", "<|python_start|>", "<|python_end|>", "<|eot|>", "<s>", "</s>",
    "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|return|>", "<|constrain|>",
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",
)  # fmt: skip
_EOS = {
    "mistral": "</s>",
    "deepseek_v3": "<｜end▁of▁sentence｜>",
    "deepseek_r1": "<｜end▁of▁sentence｜>",
    "gpt_oss": "<|return|>",
}


_TEXT = (
    'Look up the price of a thing, in coins. "function": {"name": "lookup", "description": "parameters": '
    '{"type": "object", "properties": "required": [], "arguments": {"thing": Answer: error: there is no '
)


def tokenizer_of(template: str) -> Tokenizer:
    """A small tokenizer with a template, which may be the name of a shipped one."""
    names = (*SPECIALS, *_MARKS)
    texts = [_TEXT, *[f"{_TEXT}{letter} " for letter in "abcd"]]
    trained = Tokenizer.train(texts, 256 + len(names) + 120, names)
    config = trained.config | {"eos_token": _EOS.get(template, "<|endoftext|>")}
    text = template if "{" in template else shipped_template(template)
    return Tokenizer(json.dumps(trained.content), config, text)


def stop_of(tokenizer: Tokenizer, calls: bool) -> int:
    """The token that the template writes at the end of a reply."""
    call = (ToolCall("f", {}, "call00000"),) if calls else ()
    turn = Message("assistant", "" if calls else "x", None, call)
    shown = render(
        [Message("user", "?"), turn], tokenizer.template_for(True), variables=tokenizer.named_tokens
    )
    names = {name: shown.rfind(name) for name, token in tokenizer.added_tokens.items()}
    last = max(names, key=lambda name: (names[name], len(name)))
    return tokenizer.added_tokens[last]


def call_text(tokenizer: Tokenizer, name: str, arguments: str) -> str:
    """A call as the model would write it, with its own spacing."""
    writing = format_of(tokenizer.template_for(True)).writing
    whole = f'{{"name":"{name}",  "{writing.arguments}":{arguments}}}'
    call = writing.call.replace("{object}", whole).replace("{name}", name).replace("{arguments}", arguments)
    return writing.open + call + writing.close
