"""The same items behind a server: replies, choices and tools as in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from coterie.config import ConfigError, CoterieError
from coterie.evaluate.asking import ReplyOptions, prompt_digest
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.remote_subject import RemoteSubject
from coterie.evaluate.scoring import score_benchmark
from coterie.hosting import identities
from coterie.hosting.host import Host
from coterie.hosting.service import Service
from coterie.hosting.settings import ServeSettings
from coterie.identity.tensors import weight_tree
from coterie.infer.model import LanguageModel
from coterie.remote.client import Endpoint, EndpointError
from coterie.serve.inprocess import endpoint
from coterie.serve.server import ServerThread
from tests.agents.models import PLAIN, chat_model
from tests.evaluate.items import Choices, Letters, identity_of

OPTIONS = ReplyOptions(max_tokens=8)


@pytest.fixture(scope="module", params=["moe"])
def model() -> LanguageModel:
    return chat_model(PLAIN)


@pytest.fixture(scope="module")
def remote(model: LanguageModel) -> Iterator[RemoteSubject]:
    with contextlib.closing(endpoint(model, "tiny", deterministic=True)) as client:
        yield RemoteSubject(client)


def test_replies_are_those_of_this_process(model: LanguageModel, remote: RemoteSubject) -> None:
    items = Letters().items()
    here = LocalSubject(model, "tiny").replies(items, OPTIONS)
    there = remote.replies(items, OPTIONS)
    assert [reply.text.strip() for reply in there] == [reply.text.strip() for reply in here]
    assert [reply.truncated for reply in there] == [reply.truncated for reply in here]


@pytest.mark.parametrize("form", ["auto", "plain"])
def test_choices_weigh_the_same(model: LanguageModel, remote: RemoteSubject, form: str) -> None:
    options = ReplyOptions(form=form)
    items = Choices().items()
    here = LocalSubject(model, "tiny").choice_logprobs(items, options)
    there = remote.choice_logprobs(items, options)
    for one, other in zip(here, there, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3) and one.greedy == other.greedy
        assert one.lengths == other.lengths


def test_pairs_and_texts_weigh_the_same(model: LanguageModel, remote: RemoteSubject) -> None:
    local, pairs = LocalSubject(model, "tiny"), [("the quick", " brown fox"), ("lazy ", "dog")]
    for one, other in zip(local.loglikelihoods(pairs), remote.loglikelihoods(pairs), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_a_benchmark_has_the_same_records(model: LanguageModel, remote: RemoteSubject) -> None:
    """But for the digests: a server that does not tell them has none, and its records are never reused."""
    here = score_benchmark(LocalSubject(model, "tiny", identity=identity_of("t")), Letters(), OPTIONS)
    there = score_benchmark(remote, Letters(), OPTIONS)
    assert [(one.id, one.score, one.prompt) for one in here.records] == [
        (one.id, one.score, one.prompt) for one in there.records
    ]
    assert there.result.prompt.form == "server"
    item = Letters().items()[0]
    assert prompt_digest(item, OPTIONS, "chat") == prompt_digest(item, OPTIONS, "server")


def test_long_items_are_named_before_they_are_asked(remote: RemoteSubject) -> None:
    found = remote.too_long(Letters(4, long=[2]).items(), OPTIONS, weigh=False)
    assert list(found) == ["l2"] and "256" in found["l2"]


def test_what_a_server_cannot_do_is_one_line(remote: RemoteSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="leave form out"):
        remote.replies(Letters(1).items(), ReplyOptions(form="plain"))

    def refused(path: str, body: object) -> object:
        raise EndpointError("no such path", 404)

    monkeypatch.setattr(remote.endpoint, "post", refused)
    with pytest.raises(EndpointError, match="tokenize") as caught:
        remote.choice_logprobs(Choices().items()[:1], OPTIONS)
    assert "\n" not in str(caught.value)
    other = RemoteSubject(remote.endpoint)
    assert other.too_long(Letters(1).items(), OPTIONS, weigh=False) == {}


def test_the_identity_is_that_of_the_model_that_is_asked(model: LanguageModel) -> None:
    """Two models of one server, and a server that does not know the question."""
    other = chat_model(PLAIN, seed=7)
    settings = ServeSettings.from_dict({"port": 0, "page": False})
    host = Host.of(Service(model, "one", settings), Service(other, "two", settings))
    with ServerThread(host) as server:
        found = {name: RemoteSubject(Endpoint(server.url), name, "mine") for name in ("one", "two")}
        first = RemoteSubject(Endpoint(server.url))
    for name, weights in (("one", model.model), ("two", other.model)):
        assert found[name].identity.weights_tensors == weight_tree(weights).root
        assert found[name].identity.name == "mine"
    assert first.identity.weights_tensors == found["one"].identity.weights_tensors
    assert first.profile.engine.startswith("coterie")


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_an_identity_has_no_digest(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    get = Endpoint.get

    def answer(self: Endpoint, path: str) -> object:
        if path.startswith("/v1/identity"):
            raise EndpointError("no such path", status)
        return get(self, path)

    monkeypatch.setattr(Endpoint, "get", answer)
    with contextlib.closing(endpoint(model, "tiny")) as client:
        subject = RemoteSubject(client)
    assert subject.identity.weights_tensors is None and subject.profile.engine == "server"


def test_a_server_that_fails_to_say_its_identity_is_not_scored(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object) -> None:
        raise CoterieError("the weights cannot be hashed")

    monkeypatch.setattr(identities, "weight_tree", fails)
    with contextlib.closing(endpoint(model, "tiny")) as client, pytest.raises(EndpointError):
        RemoteSubject(client)
