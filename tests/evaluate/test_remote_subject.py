"""The same items behind a server: replies, choices and tools as in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from coterie.config import ConfigError
from coterie.evaluate.asking import ReplyOptions, prompt_digest
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.remote_subject import RemoteSubject
from coterie.evaluate.scoring import score_benchmark
from coterie.infer.model import LanguageModel
from coterie.remote.client import Endpoint, EndpointError
from coterie.serve.inprocess import endpoint
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


def test_the_identity_is_the_servers(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "identity": identity_of("x").to_dict(),
        "exec_profile": {"engine": "e", "version": "1", "dtype": "f"},
    }
    get = Endpoint.get
    monkeypatch.setattr(
        Endpoint, "get", lambda self, path: told if path == "/v1/identity" else get(self, path)
    )
    with contextlib.closing(endpoint(model, "tiny")) as client:
        subject = RemoteSubject(client, name="mine")
    assert subject.identity.name == "mine"
    assert (
        subject.identity.weights_tensors == identity_of("x").weights_tensors and subject.profile.engine == "e"
    )
