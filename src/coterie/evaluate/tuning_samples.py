"""What a model answers to a few held-out prompts, greedily: for the report of a tuning run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coterie.data.tokenised import TokenExample
from coterie.infer.engine import Engine
from coterie.infer.sampling import SamplingParams
from coterie.nn.transformer import Transformer
from coterie.text.tokenizer import Tokenizer

MOST, LONGEST_PROMPT, REPLY = 3, 512, 48  # samples, and tokens of each


@dataclass(frozen=True)
class SamplePrompt:
    """A held-out prompt and the words that its example answers with."""

    ids: tuple[int, ...]
    text: str
    wanted: str


def sample_prompts(
    examples: Sequence[TokenExample], tokenizer: Tokenizer, max_positions: int
) -> list[SamplePrompt]:
    """Prompts of the first few held-out examples: what comes before the first token that is learnt.

    A text that is learnt from its start has a prompt of its first third.
    """
    found = []
    for example in examples:
        sequence = example.sequences[0]
        start = next((at for at, learnt in enumerate(sequence.learnt) if at and learnt), 0)
        start = start if start > 1 else len(sequence.ids) // 3
        if 0 < start <= min(LONGEST_PROMPT, max_positions - REPLY):
            ids, wanted = sequence.ids[:start], sequence.ids[start : start + REPLY]
            found.append(SamplePrompt(ids, tokenizer.decode(ids), tokenizer.decode(wanted)))
        if len(found) == MOST:
            break
    return found


def sample_replies(model: Transformer, tokenizer: Tokenizer, prompts: Sequence[SamplePrompt]) -> list[str]:
    """The most likely reply to each prompt, up to `REPLY` tokens. `model`: in evaluation mode."""
    if not prompts:
        return []
    params = SamplingParams(temperature=0.0, max_tokens=REPLY)
    replies = Engine(model, tokenizer).generate([prompt.ids for prompt in prompts], params)
    return [reply.text for reply in replies]
