"""Comparing with a served model: a small server in this process, well-behaved and otherwise."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import coterie
from coterie.checkpoints.directory import save_model
from coterie.config import ConfigError, CoterieError
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.proof.texts import TEXTS
from coterie.remote.client import EndpointError
from coterie.text.tokenizer import Tokenizer
from coterie.verify.identity import Verdict, compare, open_side
from coterie.verify.server import ScoredServer, _spelt
from tests.arithmetic import model_tolerance
from tests.families.hf import randomise
from tests.nn.test_transformer import SMALL


class Server:
    """`/v1/models`, `/v1/completions` with echo, `/tokenize`; `bad` switches one thing off or wrong."""

    def __init__(self, path: Path) -> None:
        self.model = coterie.load(path)
        self.bad = ""
        self.seen: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.names = ["tiny"]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(200, {"data": [{"id": name} for name in outer.names]})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.keys.add(self.headers["Authorization"])
                if outer.bad == "moved":
                    self.send_response(302)
                    self.send_header("Location", "http://127.0.0.1:9/v1/completions")
                    self.end_headers()
                    return
                if outer.bad == "cut off":
                    self.send_response(200)
                    self.send_header("Content-Length", "100")
                    self.end_headers()
                    self.wfile.write(b"{}")
                    return
                self.answer(
                    *(outer.tokenize(request) if self.path == "/tokenize" else outer.complete(request))
                )

            def answer(self, code: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def tokenize(self, request: dict[str, Any]) -> tuple[int, Any]:
        if self.bad == "no tokenize":
            return 404, {"error": {"message": "not found"}}
        ids = self.model.tokenizer.encode(request["prompt"])  # type: ignore[union-attr]
        return 200, {"tokens": [0, *ids] if self.bad == "adds a token to text" else ids}

    def complete(self, request: dict[str, Any]) -> tuple[int, Any]:
        self.seen.append(request)
        if self.bad == "key":
            return 401, {"error": {"message": "no such key"}}
        if self.bad == "strict" and (request["logprobs"] > 5 or "return_tokens_as_token_ids" in request):
            return 400, {"error": {"message": "unknown or too many"}}
        ids = list(request["prompt"])
        if self.bad == "adds a token":
            ids = [0, *ids]
        logprobs_TV = self.model.logits(ids).log_softmax(-1)
        ids.append(int(logprobs_TV[-1].argmax()))
        named = self.bad not in ("strict", "texts")
        names = [f"token_id:{i}" if named else self.model.tokenizer.decode([i]) for i in range(320)]  # type: ignore[union-attr]
        tops = [torch.topk(row, request["logprobs"]) for row in logprobs_TV]
        echo: dict[str, Any] = {
            "tokens": [names[i] for i in ids],
            "token_logprobs": [None, *logprobs_TV.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()],
            "top_logprobs": [
                None,
                *({names[i]: float(v) for v, i in zip(*top, strict=True)} for top in tops),
            ],
        }
        if self.bad == "short lists":
            echo["top_logprobs"] = echo["top_logprobs"][:1]
        if self.bad == "other names":
            echo["tokens"] = [f"token_id:{(i + 1) % 320}" for i in ids]
        if self.bad == "own tokens only":
            echo["token_logprobs"][:-1] = [None] * (len(ids) - 1)
        if self.bad == "no echo":
            echo = {key: value[-1:] for key, value in echo.items()}
        if self.bad == "odd":
            return 200, {"choices": ["none"]}
        choice = {"index": 0, "text": "", "logprobs": None if self.bad == "none" else echo}
        usage = {} if self.bad == "adds a token" else {"usage": {"prompt_tokens": len(request["prompt"])}}
        if self.bad == "counts":
            usage["usage"]["prompt_tokens"] += 1
        return 200, {"choices": [choice]} | usage if self.bad != "list" else [1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    tokenizer = Tokenizer.train([text * 3 for text in TEXTS], 320)
    for seed in range(2):
        model = Transformer(config_from_hf(SMALL | {"vocab_size": 320, "max_position_embeddings": 41}))
        randomise(model, seed)
        save_model(root / str(seed), model, tokenizer)
    return root


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Server]:
    server = Server(folder / "0")
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def server(running: Server) -> Server:
    running.bad, running.names = "", ["tiny"]
    running.seen.clear()
    return running


def rounding(folder: Path) -> float:
    """How far two computations of the same log-probabilities may be apart."""
    model = coterie.load(folder / "0")
    ids = list(range(model.config.max_positions))
    return model_tolerance(model.config, model.logits(ids).log_softmax(-1), tokens=len(ids))


def against(server: Server, folder: Path, number: int = 0, **options: Any) -> Verdict:
    return compare(open_side(str(folder / str(number))), open_side(server.url, **options))


@pytest.mark.parametrize("bad", ["", "texts", "strict", "no tokenize", "short lists"])
def test_the_same_model_behind_a_server(server: Server, folder: Path, bad: str) -> None:
    server.bad = bad
    found = against(server, folder, key="secret")
    assert found.same and found.difference.mean_logprob <= rounding(folder) and found.tensors is None
    if bad in ("texts", "short lists"):  # half of this vocabulary are parts of characters, which have no name
        assert found.difference.kl is None and found.difference.top1 is None
    else:
        assert found.difference.kl is not None and found.difference.kl <= rounding(folder)
        assert found.difference.top1 == 1.0
    assert bool(found.notes) == (bad == "no tokenize")
    assert "Bearer secret" in server.keys and server.seen[-1]["model"] == "tiny"
    assert server.seen[-1]["logprobs"] == (5 if bad == "strict" else 20)
    if bad == "strict":  # what was refused once is not asked for again
        assert len(server.seen) == 16 + 2


def test_another_model_behind_a_server(server: Server, folder: Path) -> None:
    found = against(server, folder, 1)
    assert not found.same and found.tolerance == 0.05 and "log-probabilities differ" in found.reasons[0]
    assert found.difference.kl is not None and found.difference.kl > 0.05


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("none", "returns no log-probabilities of the prompt"),
        ("no echo", "does not echo the prompt"),
        ("own tokens only", "left out log-probabilities of the prompt"),
        ("adds a token", "adds or splits tokens"),
        ("counts", "it adds or splits tokens"),
        ("other names", "it uses another tokenizer"),
        ("key", "401.*no such key"),
        ("list", "answered with a list"),
        ("moved", "completions: 302"),
        ("cut off", "is the server running|not JSON"),
        ("odd", "returns no log-probabilities"),
    ],
)
def test_what_cannot_be_compared(server: Server, folder: Path, bad: str, message: str) -> None:
    server.bad = bad
    with pytest.raises(EndpointError, match=message):
        against(server, folder)


def test_other_tokenisation_of_text(server: Server, folder: Path) -> None:
    server.bad = "adds a token to text"
    (reason,) = against(server, folder).reasons
    assert reason.startswith("the endpoint tokenises differently: text 0 becomes")


def test_the_real_server(folder: Path) -> None:
    """`coterie serve` over HTTP: the same model is the same to within rounding, another one is not."""
    with coterie.serve_in_thread(coterie.load(folder / "0", device="cpu"), name="mine", page=False) as server:
        side = open_side(server.url + "/v1")
        found = compare(open_side(str(folder / "0")), side, tolerance=rounding(folder))
        assert found.same and not found.notes and found.difference.top1 == 1.0
        assert found.difference.kl is not None and found.difference.kl <= rounding(folder)
        assert not compare(open_side(str(folder / "1")), side).same
        with pytest.raises(EndpointError, match="404 model_not_found"):
            compare(open_side(str(folder / "0")), open_side(server.url, model_name="other"))


def test_names_of_tokens() -> None:
    assert _spelt(" Zug") == b" Zug" and _spelt("bytes:\\xe5\\xad") == b"\xe5\xad"
    assert _spelt("bytes: are units") == b"bytes: are units"


def test_names_addresses_and_silence(server: Server, folder: Path) -> None:
    server.names = ["one", "two"]
    with pytest.raises(EndpointError, match=r"one, two\); choose with --model-name"):
        against(server, folder)
    assert against(server, folder, model_name="two").same and server.seen[-1]["model"] == "two"
    assert ScoredServer(server.url + "/v1/").root == server.url
    with pytest.raises(ConfigError, match="give http://HOST:PORT"):
        ScoredServer("http:/nothing")
    with pytest.raises(EndpointError, match="is the server running"):
        _ = ScoredServer("http://127.0.0.1:9").model
    with pytest.raises(CoterieError, match="one of the two must be a checkpoint directory"):
        compare(open_side(server.url), open_side(server.url))
