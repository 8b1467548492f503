"""Exact-match accuracy on short questions with one right answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coterie.infer.model import LanguageModel


def exact_match(model: LanguageModel, probes: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, float]:
    """Share of right answers per group of (prompt, answer) pairs, decoded greedily.

    A reply is right if its first line, stripped, is the answer.
    """
    result = {}
    for name, pairs in probes.items():
        longest = max(len(model.encode(answer)) for _, answer in pairs)
        replies = model.generate_many(
            [prompt for prompt, _ in pairs], temperature=0.0, max_tokens=longest + 4, max_batch=64
        )
        right = sum(
            reply.text.strip().split("\n")[0].strip() == answer.strip()
            for reply, (_, answer) in zip(replies, pairs, strict=True)
        )
        result[name] = right / len(pairs)
    return result
