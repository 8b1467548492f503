"""A model as an MCP server on standard input and output: tools chat, score, route_explain (extra `mcp`)."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

from coterie import __version__
from coterie.config import CoterieError
from coterie.config.extras import require_extra
from coterie.infer.model import LanguageModel, load
from coterie.remote.client import Endpoint
from coterie.serve.inprocess import endpoint

T = TypeVar("T")


def run(path: str, dtype: str = "float32") -> None:
    """Serve a checkpoint over MCP until standard input ends. Errors: `ConfigError` without the extra."""
    _require_mcp()
    model = load(path, dtype=dtype)
    with closing(endpoint(model, label=path)) as client:
        build(model, client, path).run("stdio")


def build(model: LanguageModel, client: Endpoint, name: str) -> Any:
    """The MCP server, not yet running. `client` answers chats with the same model.

    Errors: `ConfigError` without the extra.
    """
    _require_mcp()
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    server = MCPServer(
        "coterie", version=__version__, instructions=f"The language model {name}.", log_level="ERROR"
    )
    alone = threading.Lock()

    def answer(work: Callable[[], T]) -> T:
        """Run tools one at a time, as the MCP server calls them from several threads.

        Our own errors are one line and reach the client; others stay hidden.
        """
        try:
            with alone:
                return work()
        except CoterieError as error:
            raise ToolError(str(error)) from None

    @server.tool()
    def chat(message: str, system: str = "", max_tokens: int = 512, temperature: float = 0.7) -> str:
        """Ask the model: one message, one answer."""
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": message})
        settings = {"max_tokens": max_tokens, "temperature": temperature}
        return answer(lambda: ask(client, messages, settings))

    @server.tool()
    def score(text: str) -> dict[str, Any]:
        """How likely the model finds a text: tokens, log-probability in all, and bits per byte."""
        return answer(lambda: score_text(model, text))

    @server.tool()
    def route_explain(text: str) -> dict[str, Any]:
        """Which experts the model chooses for each token of a text, layer by layer, with their weights."""
        return answer(lambda: explain_routes(model, text))

    return server


def ask(client: Endpoint, messages: list[dict[str, str]], settings: dict[str, Any]) -> str:
    """The content of the model's reply, without its reasoning. Errors: `EndpointError`."""
    body = {"model": "model", "messages": messages, **settings}
    data = client.post("/v1/chat/completions", body)
    content: str | None = data["choices"][0]["message"]["content"]
    return content or ""


def score_text(model: LanguageModel, text: str) -> dict[str, Any]:
    """Tokens, their summed natural log-probability, and bits per byte of the text.

    The first token counts only if the model puts a start token before texts.
    Errors: `CoterieError`.
    """
    ids = model.encode(text)
    logprob = float(model.logprobs(ids).double().sum())
    size = len(text.encode())
    return {
        "tokens": len(ids),
        "logprob": logprob,
        "bits_per_byte": -logprob / math.log(2) / size if size else None,
    }


def explain_routes(model: LanguageModel, text: str) -> dict[str, Any]:
    """The text of each token and, for each MoE layer, the experts chosen for it with their weights.

    Errors: `CoterieError`.
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


def _require_mcp() -> None:
    require_extra("mcp", "MCP needs its package", "'coterie[mcp]'")
