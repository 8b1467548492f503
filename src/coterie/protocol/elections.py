"""Several replies to one conversation elect one of them, which is then the only choice (`votes`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from coterie.protocol.replies import ChoiceStep, Replies
from coterie.reasoning.votes import Ballot, VoteRule, mean_logprob, tally
from coterie.text.replies import Delta

PROGRESS = -1  # the token of a step that only says how many replies are complete


async def elected(replies: Replies, rule: VoteRule) -> AsyncGenerator[list[ChoiceStep], None]:
    """Steps that say how many replies are complete, then those of the elected reply as choice 0.

    `votes` of its last step is the table (`VoteTable.to_dict`). Close the generator to cancel the call.
    """
    kept: list[list[ChoiceStep]] = [[] for _ in replies.talk.jobs]
    done = 0
    async with aclosing(replies.steps()) as batches:
        async for steps in batches:
            for step in steps:
                kept[step.index].append(step)
            ended = sum(step.finish is not None for step in steps)
            done += ended
            if ended and done < len(kept):
                progress = {"done": done, "of": len(kept)}
                yield [ChoiceStep(0, Delta(), PROGRESS, None, "", votes=progress)]
    texts = ["".join(step.delta.content for step in steps) for steps in kept]
    ballots = [
        Ballot(text, mean_logprob([step.logprob for step in steps]), steps[-1].finish == "length")
        for text, steps in zip(texts, kept, strict=True)
    ]
    table = tally(ballots, rule)
    winner = [replace(step, index=0) for step in kept[table.winner]]
    winner[-1].votes = table.to_dict(texts)
    yield winner
