"""A model as an MCP server over standard input and output: tools chat, score and route_explain (extra
`mcp`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from coterie import __version__
from coterie.agents.mcp_tools import require_mcp
from coterie.config.errors import CoterieError
from coterie.text.messages import Message
from coterie.text.replies import parse_reply
from coterie.text.reply_formats import format_of

if TYPE_CHECKING:
    from coterie.infer.model import LanguageModel

T = TypeVar("T")


def build(model: LanguageModel, name: str) -> Any:
    """The server, not yet running. Errors: `ConfigError` without the extra."""
    require_mcp()
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    form = format_of(model.tokenizer.chat_template) if model.tokenizer is not None else None
    server = MCPServer(
        "coterie", version=__version__, instructions=f"The language model {name}.", log_level="ERROR"
    )

    alone = threading.Lock()

    def tell(work: Callable[[], T]) -> T:
        """One at a time: tools run in threads. Our errors are one line for people; others stay hidden."""
        try:
            with alone:
                return work()
        except CoterieError as error:
            raise ToolError(str(error)) from None

    @server.tool()
    def chat(message: str, system: str = "", max_tokens: int = 512, temperature: float = 0.7) -> str:
        """Ask the model: one message, one answer."""
        before = [Message("system", system)] if system else []
        messages = [*before, Message("user", message)]
        reply = tell(lambda: model.chat(messages, max_tokens=max_tokens, temperature=temperature))
        return parse_reply(reply.text, form).text

    @server.tool()
    def score(text: str) -> dict[str, Any]:
        """How likely the model finds a text: tokens, log-probability in all, and bits per byte."""
        return tell(lambda: score_text(model, text))

    @server.tool()
    def route_explain(text: str) -> dict[str, Any]:
        """Which experts the model chooses for each token of a text, layer by layer, with their weights."""
        return tell(lambda: explain_routes(model, text))

    return server


def score_text(model: LanguageModel, text: str) -> dict[str, Any]:
    """Tokens, their summed natural log-probability, and bits per byte of the text.

    The first token counts only where the model's texts begin with a token of their own. Errors:
    `CoterieError`.
    """
    import math

    ids = model.encode(text)
    logprob = float(model.logprobs(ids).double().sum())
    size = len(text.encode())
    return {
        "tokens": len(ids),
        "logprob": logprob,
        "bits_per_byte": -logprob / math.log(2) / size if size else None,
    }


def explain_routes(model: LanguageModel, text: str) -> dict[str, Any]:
    """For each token: its text, and per mixture layer the chosen experts and their weights. Errors:
    `CoterieError`.
    """
    ids = model.encode(text)
    layers = {
        str(layer): {
            "experts": routing.ids_TK.tolist(),
            "weights": [[round(float(weight), 4) for weight in row] for row in routing.weights_TK],
        }
        for layer, routing in model.routing(ids).items()
    }
    tokens = [model.tokenizer.decode([token]) for token in ids] if model.tokenizer is not None else []
    return {"tokens": tokens, "layers": layers}
