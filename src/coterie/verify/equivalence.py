"""A signed statement that a model is, to its users, the one that it was made from."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from coterie import __version__
from coterie.config import CoterieError
from coterie.evidence.claims import CLAIMS
from coterie.evidence.keys import SigningKey
from coterie.evidence.statements import EQUIVALENCE, Envelope, sign_statement
from coterie.verify.identity import Side, Verdict
from coterie.verify.known import KnownIdentity


def sign_equivalence(
    key: SigningKey, verdict: Verdict, derived: KnownIdentity, source: KnownIdentity
) -> Envelope:
    """The statement that `derived` (A of the verdict) answers as `source` (B) does.

    Its subjects are the digests of the derived model. The predicate names the source, the probes that both
    answered, and how far apart the answers were: the share of positions with the same best token, and the
    mean divergence in nats. It says nothing of other texts.
    Errors: `CoterieError` for models that differ: that is no equivalence.
    """
    if not verdict.same:
        raise CoterieError("verify: the two models differ, and nothing was signed; --tolerance allows more")
    its = derived.identity
    digests = {
        "weights_tensors": its.weights_tensors, "weights_files": its.weights_files,
        "tokenizer": its.tokenizer, "chat_template": its.chat_template,
    }  # fmt: skip
    found = verdict.difference
    predicate = {
        "source": source.identity.to_dict(),
        "derived": its.to_dict(),
        "probes": {"digest": verdict.probes, "positions": found.positions},
        "item_agreement": found.top1,
        "kl": found.kl,
        "mean_logprob": found.mean_logprob,
        "max_logprob": found.max_logprob,
        "tolerance": verdict.tolerance,
        "experts_not_probed": sum(verdict.unreached.values()),
        "notes": [*verdict.notes, *derived.tree.notes, *source.tree.notes],
        "made_by": f"coterie {__version__}",
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    subjects = {name: digest for name, digest in digests.items() if digest is not None}
    return sign_statement(key, subjects, EQUIVALENCE, predicate)


def claims_of(side: Side) -> Path:
    """The file of claims next to a model. Errors: `CoterieError` for a server, which has no place for one."""
    if side.endpoint is not None:
        raise CoterieError(f"{side.name}: is a server; say with --claims where to write the statement")
    path = side.gguf or side.variant or (side.checkpoint.path if side.checkpoint is not None else None)
    assert path is not None
    return (path.parent if path.is_file() else path) / CLAIMS
