"""The identity of whatever a user names: a directory, an adapter, a GGUF file, a server, a saved answer."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from coterie.adapters.apply import apply_in_place, base_of, is_variant
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import CoterieError
from coterie.config.files import read_json
from coterie.identity.model import model_identity, stored_identity
from coterie.identity.tensors import stored_weight_tree, weight_tree
from coterie.identity.tree import WeightTree
from coterie.remote.client import Endpoint, EndpointError, is_url
from coterie.results.evaluation import ExecProfile, ModelIdentity

_NO_SUCH_PATH = (404, 405, 501)
# What makes a reply besides the weights, by field and in words.
_BESIDES = {
    "config": "config.json",
    "tokenizer": "the tokenizers",
    "chat_template": "the chat templates",
    "generation_config": "generation_config.json",
}


@dataclass(frozen=True)
class KnownIdentity:
    """The identity of one model, the digest of each of its experts, and what runs it (a server alone)."""

    identity: ModelIdentity
    tree: WeightTree
    profile: ExecProfile | None = None

    def to_dict(self, tensors: bool = False) -> dict[str, Any]:
        """JSON types, as `/v1/identity` answers; `tensors`: with the digest of each tensor."""
        profile = {} if self.profile is None else {"exec_profile": self.profile.to_dict()}
        return {"identity": self.identity.to_dict(), "weights": self.tree.to_dict(tensors)} | profile


@dataclass(frozen=True)
class IdentityDifference:
    """In what two identities differ, one line each; what a side does not know is left out.

    `weights`: by layer. `besides`: tokenizer, chat template and the like.
    """

    weights: list[str]
    besides: list[str]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.weights or self.besides)


def known_identity(target: str, model_name: str | None = None, key: str | None = None) -> KnownIdentity:
    """The identity of a directory (a model's or an adapter's), hub id, GGUF file, server or saved answer.

    Files are read without building a model; an adapter is put on its base. `model_name`, `key`: the model to
    ask the server for, and its bearer token. Errors: `CoterieError`, one line.
    """
    if is_url(target):
        with closing(Endpoint(target, key)) as server:
            served = served_identity(server, model_name)
            if served is None:
                raise CoterieError(
                    f"{server.root}: does not say which weights it runs (/v1/identity); coterie serve does"
                )
            return served
    if target.endswith(".json") and Path(target).is_file():
        return _answered(read_json(target, "give a model, or what coterie identity --json wrote"), target)
    if is_variant(target):
        base = Checkpoint.open(base_of(target))
        model = base.load_as_stored().model
        before = weight_tree(model, base).root
        apply_in_place(model, target, base)
        tree = weight_tree(model, base)
        identity = model_identity(model, base.tokenizer, base, target, tree, lineage=[before])
        return KnownIdentity(identity, tree)
    checkpoint = Checkpoint.open(target)
    tree = stored_weight_tree(checkpoint)
    return KnownIdentity(stored_identity(checkpoint, target, tree), tree)


def identity_difference(a: KnownIdentity, b: KnownIdentity) -> IdentityDifference:
    """In what A and B differ."""
    besides = []
    for field, words in _BESIDES.items():
        mine, theirs = getattr(a.identity, field), getattr(b.identity, field)
        if mine != theirs:
            verb = "differ" if words.startswith("the ") else "differs"
            missing = "" if None not in (mine, theirs) else f": {'A' if mine is None else 'B'} has none"
            besides.append(f"{words} {verb}{missing}")
    return IdentityDifference(a.tree.differences(b.tree), besides)


def served_identity(server: Endpoint, model_name: str | None = None) -> KnownIdentity | None:
    """What a server says of one of its models (None: the first); None where it does not know the question.

    Errors: `CoterieError`, one line, for a model that it does not have, and an answer that does not add up.
    """
    query = "" if model_name is None else f"?model={quote(model_name, safe='')}"
    try:
        found = server.get(f"/v1/identity{query}")
    except EndpointError as error:
        if error.status in _NO_SUCH_PATH and error.code != "model_not_found":
            return None
        raise
    return _answered(found, server.root)


def _answered(data: Any, where: str) -> KnownIdentity:
    try:
        identity = ModelIdentity.model_validate(data["identity"])
        profile = data.get("exec_profile")
        known = None if profile is None else ExecProfile.model_validate(profile)
        tree = data["weights"]
    except (KeyError, TypeError, AttributeError, ValidationError):
        raise CoterieError(f"{where}: is not the identity of a model") from None
    read = WeightTree.from_dict(tree, where)
    if read.root != identity.weights_tensors:
        raise CoterieError(f"{where}: the digest of the weights is not that of their parts; it was edited")
    return KnownIdentity(identity, read, known)
