"""A model behind an OpenAI-compatible server that is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

from coterie.agents.loop import Agent, Budget
from coterie.agents.speaker import RemoteSpeaker, Sampling
from coterie.benchmarks.item import BenchmarkItem, ItemReply
from coterie.config.errors import ConfigError, CoterieError
from coterie.evaluate.asking import (
    FORMS,
    PLAIN_TEMPLATE,
    TEXT_TEMPLATE,
    Form,
    ReplyOptions,
    continuation_of,
    plain_text,
    tools_of,
    turns_of,
)
from coterie.evaluate.continuations import ContinuationScore
from coterie.evaluate.subject import Environment, no_tools, weighed
from coterie.evidence.canonical import digest_bytes
from coterie.remote.client import Endpoint, EndpointError
from coterie.results.evaluation import ExecProfile, ModelIdentity, PromptFacts
from coterie.sandbox.tools import Tool
from coterie.text.messages import Message
from coterie.verify.known import served_identity
from coterie.verify.server import ScoredServer

_NO_SUCH_PATH = (404, 405, 501)
PARALLEL = 8  # requests under way; results are in the order of the items whatever comes back first
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class RemoteSubject:
    """One model of a server.

    `model`: its name there (None: the first one). `name`: in the report. The digests are what the server
    says of this model at `/v1/identity`; a server without it has none, so that nothing ties a score to
    weights. Choices are weighed by the log-probabilities of an echoed prompt, in the token ids of
    the server's `/tokenize`.
    """

    def __init__(
        self, endpoint: Endpoint, model: str | None = None, name: str = "", parallel: int = PARALLEL
    ) -> None:
        self.endpoint = endpoint
        self.speaker = RemoteSpeaker(endpoint, model)
        self.scored = ScoredServer(endpoint, self.speaker.model)
        self._parallel = parallel
        name = name or self.speaker.name
        said = served_identity(endpoint, self.speaker.model)
        self.identity = (
            ModelIdentity(name=name, weights_tensors=None)
            if said is None
            else said.identity.model_copy(update={"name": name})
        )
        unknown = ExecProfile(engine="server", version="", dtype="")
        self.profile = unknown if said is None or said.profile is None else said.profile

    def form(self, options: ReplyOptions) -> Form:
        """See `Subject`."""
        if options.form not in FORMS:
            raise ConfigError(f"form: unknown value '{options.form}'; choose one of {', '.join(FORMS)}")
        return "plain" if options.form == "plain" else "text" if options.form == "text" else "server"

    def facts(self, options: ReplyOptions, extractor: str) -> PromptFacts:
        """See `Subject`."""
        form = self.form(options)
        template = {"plain": PLAIN_TEMPLATE, "text": TEXT_TEMPLATE}.get(form) or self._template
        return PromptFacts(
            form=form, template=template, system=options.system, extractor=extractor, effort=options.effort,
            max_tokens=options.max_tokens, temperature=options.temperature,
        )  # fmt: skip

    def too_long(self, items: Sequence[BenchmarkItem], options: ReplyOptions, weigh: bool) -> dict[str, str]:
        """See `Subject`; empty for a server that does not count tokens, which refuses long items itself."""
        if not items or not self._counts:
            return {}

        def excess(item: BenchmarkItem) -> str:
            try:
                ids, most = self._prompt(item, options)
            except EndpointError as error:
                if error.status != 400:
                    raise
                return str(error)
            needed = len(ids) + (0 if weigh else options.max_tokens)
            if most is None or needed <= most:
                return ""
            return f"a prompt and its answer take {needed} tokens; the model has {most} positions"

        said = self.each(excess, items)
        return {item.id: why for item, why in zip(items, said, strict=True) if why}

    def replies(
        self, items: Sequence[BenchmarkItem], options: ReplyOptions, environment: Environment = no_tools
    ) -> list[ItemReply]:
        """See `Subject`."""
        if self.form(options) != "server":
            raise ConfigError("form: a server writes replies by its own template; leave form out")
        return self.each(lambda item: self._reply(item, options, environment(item)), items)

    def choice_logprobs(self, items: Sequence[BenchmarkItem], options: ReplyOptions) -> list[ItemReply]:
        """See `Subject`."""
        return self.each(lambda item: self._weighed(item, options), items)

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[ContinuationScore]:
        """See `Subject`."""

        def scored(pair: tuple[str, str]) -> ContinuationScore:
            kept = pair[0].rstrip()
            before, _ = self._text_ids(kept)
            whole, _ = self._text_ids(kept + pair[0][len(kept) :] + pair[1])
            return self._continuation(before or whole[:1], whole[len(before or whole[:1]) :])

        return self.each(scored, pairs)

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """See `Subject`; a text has to fit into the server's positions."""
        return self.each(lambda text: sum(self.scored.score(self._text_ids(text)[0])[0]), texts)

    def token_logprobs(self, texts: Sequence[str]) -> list[list[float]]:
        """Log-probabilities of each text's tokens but its first; a single 0 where there is no other."""
        return self.each(lambda text: self.scored.score(self._text_ids(text)[0])[0] or [0.0], texts)

    def _reply(self, item: BenchmarkItem, options: ReplyOptions, tools: Sequence[Tool]) -> ItemReply:
        messages = [Message.from_dict(turn) for turn in turns_of(item, options)]
        sampling = Sampling(
            temperature=options.temperature,
            max_tokens=options.max_tokens + (options.reasoning_tokens if self._reasons(options) else 0),
            seed=options.seed_of(item),
            effort=options.effort,
            think_budget=options.reasoning_tokens if self._reasons(options) and not options.effort else None,
        )
        if tools:
            return self._played(messages, sampling, tools, options.turns)
        turn = self.speaker.say(messages, tools_of(item), sampling)
        return ItemReply(
            text=turn.message.text,
            reasoning=turn.message.reasoning or "",
            calls=tuple(
                {"name": call.name, "arguments": dict(call.arguments)} for call in turn.message.tool_calls
            ),
            truncated=turn.finish_reason == "length",
            tokens=turn.completion_tokens or 0,
        )

    def _played(
        self, messages: list[Message], sampling: Sampling, tools: Sequence[Tool], turns: int
    ) -> ItemReply:
        """A conversation with working tools, by the loop of agents."""
        agent = Agent(
            self.speaker,
            tools,
            Budget(steps=turns, repeats=turns + 1),
            lambda tool, arguments: True,
            sampling,
        )
        outcome = agent.run(messages)
        said = agent.messages[len(messages) :]
        calls = tuple(
            {"name": call.name, "arguments": dict(call.arguments)}
            for message in said
            for call in message.tool_calls
        )
        for tool in tools:
            tool.close()
        return ItemReply(
            text=outcome.answer,
            calls=calls,
            truncated=outcome.status not in ("done", "empty"),
            tokens=outcome.tokens,
            turns=tuple(message.to_dict() for message in said),
        )

    def _weighed(self, item: BenchmarkItem, options: ReplyOptions) -> ItemReply:
        form = self.form(options)
        if form == "server":
            ids, _ = self._prompt(item, options)
            ends = [self._text_ids(choice, special=False)[0] for choice in item.choices]
        else:
            text = plain_text(item, options)
            ids, _ = self._text_ids(text)
            whole = [self._text_ids(text + continuation_of(text, choice))[0] for choice in item.choices]
            ends = [
                one[len(ids) :]
                if one[: len(ids)] == ids
                else self._text_ids(continuation_of(text, choice), False)[0]
                for one, choice in zip(whole, item.choices, strict=True)
            ]
        return weighed(item, [self._continuation(ids, end) for end in ends])

    def _continuation(self, before: Sequence[int], after: Sequence[int]) -> ContinuationScore:
        values, best = self.scored.score([*before, *after])
        count = len(after)
        return ContinuationScore(sum(values[-count:]), all(one is True for one in best[-count:]))

    def _prompt(self, item: BenchmarkItem, options: ReplyOptions) -> tuple[list[int], int | None]:
        """The ids of an item's prompt, and the model's positions, as the server counts them."""
        if self.form(options) != "server":
            return self._text_ids(plain_text(item, options))
        body: dict[str, Any] = {"messages": turns_of(item, options), "add_generation_prompt": True}
        if item.tools:
            body["tools"] = tools_of(item)
        return self.ids(body)

    def _text_ids(self, text: str, special: bool = True) -> tuple[list[int], int | None]:
        return self.ids({"prompt": text, "add_special_tokens": special})

    def ids(self, body: dict[str, Any]) -> tuple[list[int], int | None]:
        """The ids of a text or a conversation, and the model's positions, as the server counts them.

        `body`: of a request to `/tokenize`. Errors: `EndpointError`, one line.
        """
        try:
            answer = self.endpoint.post("/tokenize", {"model": self.speaker.model, **body})
        except EndpointError as error:
            if error.status not in _NO_SUCH_PATH:
                raise
            raise EndpointError(
                f"{self.endpoint.label}: does not count tokens at /tokenize ({error.status}), so its "
                "choices cannot be weighed; serve the model with 'coterie serve' or vLLM",
                error.status,
            ) from None
        ids = answer.get("tokens") if isinstance(answer, Mapping) else None
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise EndpointError(f"{self.endpoint.label}/tokenize: answered without a list of token ids")
        most = answer.get("max_model_len")
        return ids, most if isinstance(most, int) else None

    @cached_property
    def _counts(self) -> bool:
        """Whether the server counts tokens."""
        return self.scored.tokenize("a") is not None

    def _reasons(self, options: ReplyOptions) -> bool:
        """Whether replies may begin with reasoning: the template that the server shows has a mark of it."""
        return options.effort != "none" and ("think" in self._shown or "channel" in self._shown)

    @cached_property
    def _shown(self) -> str:
        """The chat template that the server tells; nothing where it tells none."""
        try:
            info = self.endpoint.get("/tokenizer_info")
        except EndpointError:
            return ""
        found = info.get("chat_template") if isinstance(info, Mapping) else None
        return found if isinstance(found, str) else ""

    @property
    def _template(self) -> str:
        return self.identity.chat_template or digest_bytes(self._shown.encode())

    def each(self, ask: Callable[[_In], _Out], asked: Sequence[_In]) -> list[_Out]:
        """What `ask` says of each, several at once. Errors: those of the first that fails."""
        with ThreadPoolExecutor(self._parallel) as pool:
            waiting = [pool.submit(ask, one) for one in asked]
            try:
                return [one.result() for one in waiting]
            except CoterieError:
                for one in waiting:
                    one.cancel()
                raise
