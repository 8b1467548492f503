"""Drawing the next tokens of one pass so that what is wrong with one request does not fail the others."""

from __future__ import annotations

from torch import Tensor

from coterie.infer.forward import Fed
from coterie.infer.request import TopLogprobs
from coterie.infer.sampling import sample

Drawn = tuple[int, float, TopLogprobs]  # token, log-probability, the likeliest tokens


def draw_next(fed: Fed) -> list[Drawn | Exception]:
    """For each request of a pass its next token, or why there is none.

    The requests are drawn together. Only if that fails, each is drawn alone, which gives the same tokens.
    """
    allowed: list[Tensor | Exception | None] = []
    for request in fed.requests:
        try:
            allowed.append(request.allowed(fed.logits_BV.shape[1]))
        except Exception as error:  # a grammar is code of others; its failure is its request's own
            allowed.append(error)
    rows = [row for row, mask in enumerate(allowed) if not isinstance(mask, Exception)]
    try:
        drawn = dict(zip(rows, _draw(fed, rows, allowed), strict=True))
        return [drawn.get(row) or _error(mask) for row, mask in enumerate(allowed)]
    except Exception:
        return [_draw_alone(fed, row, allowed) for row in range(len(allowed))]


def _error(mask: Tensor | Exception | None) -> Exception:
    assert isinstance(mask, Exception)
    return mask


def _draw_alone(fed: Fed, row: int, allowed: list[Tensor | Exception | None]) -> Drawn | Exception:
    mask = allowed[row]
    if isinstance(mask, Exception):
        return mask
    try:
        return _draw(fed, [row], allowed)[0]
    except Exception as error:
        return error


def _draw(fed: Fed, rows: list[int], allowed: list[Tensor | Exception | None]) -> list[Drawn]:
    if not rows:
        return []
    requests = [fed.requests[row] for row in rows]
    sampled = sample(
        fed.logits_BV if len(rows) == len(allowed) else fed.logits_BV[rows],
        [request.params for request in requests],
        [request.num_drawn for request in requests],
        [request.tokens for request in requests],
        [mask for row in rows if not isinstance(mask := allowed[row], Exception)],
        [request.counts for request in requests],
        compiled=any(request.variant.has_plan for request in requests),
    )
    return list(zip(sampled.ids, sampled.logprobs, sampled.top, strict=True))
