"""Layer 1: text to tokens and back, conversations to text and back. Imports neither torch nor
transformers.
"""

from coterie.text.chat import Message, ToolCall, parse_reply, render, render_ids
from coterie.text.tokenizer import SPECIALS, StreamDecoder, Tokenizer

__all__ = [
    "SPECIALS",
    "Message",
    "StreamDecoder",
    "Tokenizer",
    "ToolCall",
    "parse_reply",
    "render",
    "render_ids",
]
