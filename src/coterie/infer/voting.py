"""Several sampled replies to one prompt: the answer that most of them give, and the steps of a reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from coterie.config.errors import ConfigError
from coterie.infer.engine import Engine
from coterie.infer.request import Reply, RequestOptions
from coterie.infer.sampling import SamplingParams
from coterie.infer.thinking import opens_reasoning
from coterie.reasoning.steps import ProcessReader, ReplyProcess, step_parts
from coterie.reasoning.votes import MOST_VOTES, Ballot, VoteRule, VoteTable, mean_logprob, tally
from coterie.text.messages import Message
from coterie.text.replies import ReplyParser, parse_reply
from coterie.text.reply_formats import format_of
from coterie.text.tokenizer import StreamDecoder, Tokenizer


@dataclass(frozen=True)
class VoteResult:
    """Sampled replies, what each says, and the table of their answers."""

    replies: tuple[Reply, ...]
    messages: tuple[Message, ...]
    table: VoteTable

    @property
    def answer(self) -> str | None:
        """The answer that most replies give; None where none has one."""
        return self.table.answer

    @property
    def majority(self) -> bool:
        """Whether more than half of the replies give it."""
        return self.table.majority

    @property
    def message(self) -> Message:
        """The likeliest reply with this answer."""
        return self.messages[self.table.winner]

    @property
    def tokens(self) -> int:
        """Of all replies together."""
        return sum(len(reply.ids) for reply in self.replies)


def elect(
    engine: Engine,
    tokenizer: Tokenizer,
    asked: Sequence[tuple[list[int], RequestOptions | None]],
    params: SamplingParams,
    rule: VoteRule,
) -> VoteResult:
    """Sample a reply to each of `asked`, which are one prompt, and count their answers.

    The prompt is read once. Errors: `ConfigError` at temperature 0, and for fewer than two replies.
    """
    if not 2 <= len(asked) <= MOST_VOTES:
        raise ConfigError(f"votes: give a number from 2 to {MOST_VOTES}, not {len(asked)}")
    if params.temperature == 0:
        raise ConfigError("votes: at temperature 0 all replies are the same; set a temperature")
    seeds = [None if params.seed is None else (params.seed + index) % 2**64 for index in range(len(asked))]
    replies = engine.generate(
        [ids for ids, _ in asked], [replace(params, seed=seed) for seed in seeds], [one for _, one in asked]
    )
    form = format_of(tokenizer.chat_template)
    opened = form.reasoning is not None and opens_reasoning(tokenizer, form, asked[0][0])
    messages = [parse_reply(reply.text, form, opened or None) for reply in replies]
    ballots = [
        Ballot(message.text, mean_logprob(reply.logprobs), reply.finish_reason == "length")
        for message, reply in zip(messages, replies, strict=True)
    ]
    return VoteResult(tuple(replies), tuple(messages), tally(ballots, rule))


def process_of(reply: Reply, tokenizer: Tokenizer, stop_ids: Sequence[int] = ()) -> ReplyProcess:
    """The steps of a whole reply. `stop_ids`: tokens that are no words of it."""
    form = format_of(tokenizer.chat_template)
    thought = form.reasoning
    opened = thought is not None and any(mark in reply.text for mark in thought.close)
    opened = opened and not any(mark in reply.text for mark in (thought.open if thought else ()))
    parser = ReplyParser(form, opened, streamed=True)
    decoder, reader = StreamDecoder(tokenizer), ProcessReader()
    for place, (token, logprob) in enumerate(zip(reply.ids, reply.logprobs, strict=True)):
        text = "" if token in stop_ids or token >= tokenizer.vocab_size else decoder.feed(token)
        delta = parser.feed(text)
        if place + 1 == len(reply.ids):
            delta.add(parser.feed(decoder.finish()))
            delta.add(parser.flush(cut=reply.finish_reason == "length"))
        reader.add(logprob, step_parts(delta, False))
    return reader.process()
