"""Text to tokens and back, conversations to text and back; imports neither torch nor transformers."""

from coterie.text.chat import Message, ToolCall, conversation_ids, parse_reply, render, render_ids
from coterie.text.tokenizer import SPECIALS, StreamDecoder, Tokenizer

__all__ = [
    "SPECIALS",
    "Message",
    "StreamDecoder",
    "Tokenizer",
    "ToolCall",
    "conversation_ids",
    "parse_reply",
    "render",
    "render_ids",
]
