"""The Python face: a checkpoint as one object that scores, generates and talks.

import coterie
m = coterie.load("runs/quickstart/moe/model")
print(m.generate("Once upon a time", max_tokens=60).text)
for piece in m.stream("def add(a, b):", temperature=0):
    print(piece, end="")
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.adapters.apply import apply_in_place, base_of, find_variant, is_variant
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import travelling
from coterie.checkpoints.directory import save_model
from coterie.checkpoints.quantise import held_forms, quantised_parts
from coterie.checkpoints.running_dtype import AUTO, RunningDtype, running_dtype
from coterie.config import ConfigError, CoterieError, ModelConfig, Precision, suggest
from coterie.config.expert_place import ExpertPlace
from coterie.config.kernels import check_kernels
from coterie.infer.defaults import sampling_defaults
from coterie.infer.engine import Engine
from coterie.infer.request import Reply, RequestOptions, check_prompt, id_list
from coterie.infer.sampling import SamplingParams
from coterie.infer.thinking import ThinkingWish
from coterie.infer.voting import VoteResult, elect, process_of
from coterie.machine.device import choose_device
from coterie.nn.forward_context import ForwardContext
from coterie.nn.logprobs import token_logprobs
from coterie.nn.recording import Recorder
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer
from coterie.reasoning.steps import ReplyProcess
from coterie.reasoning.votes import MOST_VOTES, VoteRule
from coterie.text.chat import Message, conversation_ids
from coterie.text.template_sources import ChatTemplates, template_from
from coterie.text.tokenizer import Tokenizer

_log = logging.getLogger("coterie")
Ids = Sequence[int] | Tensor
Messages = Sequence[Message | Mapping[str, Any]]
Prompt = str | Ids | Messages


class LanguageModel:
    """A Transformer with its tokenizer. Build one with `coterie.load`, or from parts.

    `start_ids`: the tokens put before a text prompt; None means those that the tokenizer itself puts before a
    text. `stop_ids`: the tokens that end a reply by default; None means the tokenizer's. `sampling`: settings
    of replies where a call says nothing. `checkpoint`: what it was read from. `manifest`: `coterie.json` of
    the directory it came from (default: the checkpoint's). `dtype`: what it runs in, and why. `kernels`: what
    decoding runs on: "native", "torch" or "auto", which is what is faster.

    Keyword settings of `generate`, `stream` and `chat` are the fields of `SamplingParams`: `max_tokens`,
    `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`, `seed`, `stop`, `stop_ids`, `min_tokens`,
    `include_stop`, `logprobs`... `stop_ids=()`: no token ends a reply.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer | None = None,
        *,
        start_ids: Sequence[int] | None = None,
        stop_ids: Iterable[int] | None = None,
        sampling: SamplingParams | None = None,
        manifest: Mapping[str, Any] | None = None,
        checkpoint: Checkpoint | None = None,
        dtype: RunningDtype | None = None,
        kernels: str = "auto",
    ) -> None:
        self.model = model
        self.kernels = check_kernels(kernels)
        self.tokenizer = tokenizer
        if start_ids is None:
            start_ids = tokenizer.start_ids if tokenizer is not None else ()
        self.start_ids = tuple(start_ids)
        if stop_ids is None:
            stop_ids = tokenizer.stop_ids if tokenizer is not None else ()
        self.stop_ids = tuple(sorted(stop_ids))
        self.sampling = sampling or SamplingParams()
        self.checkpoint = checkpoint
        self.dtype = dtype or RunningDtype(model.compute_dtype, "as the model was given")
        if manifest is None and checkpoint is not None:
            manifest = checkpoint.manifest
        self.manifest = dict(manifest or {})

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def reply_limit(self) -> int | None:
        """The length of replies that its directory recommends, in tokens; None where it names none."""
        named = self.checkpoint is not None and self.checkpoint.generation_config.get("max_new_tokens")
        return self.sampling.max_tokens if named else None

    @property
    def device(self) -> torch.device:
        return self.model.embed.weight.device

    @property
    def num_parameters(self) -> int:
        """All parameters, each counted once (a tied head is the embedding)."""
        plain = sum(parameter.numel() for parameter in self.model.parameters())
        codes = quantised_parts(self.model)
        if self.config.tie_embeddings:
            codes.pop("head.weight", None)
        stored = 0 if self.model.store is None else self.model.store.num_numbers
        return plain + stored + sum(math.prod(part.shape) for part in codes.values())

    @property
    def held(self) -> dict[str, str]:
        """What the weights of each class are held in, in words."""
        return held_forms(self.model)

    def __repr__(self) -> str:
        c = self.config
        size = f"{self.num_parameters:,} parameters, {c.num_layers} layers, width {c.width}"
        return f"LanguageModel({c.family}, {size})"

    def encode(self, text: str) -> list[int]:
        """Token ids of a text prompt, `start_ids` first. Special tokens written in the text stay text."""
        return [*self.start_ids, *self._needs_tokenizer("a text prompt").encode(text)]

    @torch.inference_mode()
    def logits(self, ids: Ids) -> Tensor:
        """(T, V) float32: the scores of every next token after each of the T given ones.

        Errors: `CoterieError`, one line, for no ids, too many, or one outside the vocabulary.
        """
        return self.model.logits(self._hidden(ids)[0])

    @torch.inference_mode()
    def routing(self, ids: Ids) -> dict[int, Routing]:
        """The experts that each token of one sequence uses, by layer; empty for a dense model.

        Errors: `CoterieError`, as `logits`.
        """
        recorder = Recorder()
        self._hidden(ids, recorder)
        return recorder.routing

    @torch.inference_mode()
    def logprobs(self, ids: Ids) -> Tensor:
        """(T - 1,) float32: the log-probability of each given token but the first, given the earlier ones.

        Errors: `CoterieError`, as `logits`.
        """
        h_TD, ids_T = self._hidden(ids)
        return token_logprobs(h_TD[:-1], self.model.head_weight, ids_T[1:], cap=self.model.logit_cap)

    def generate(self, prompt: Prompt, params: SamplingParams | None = None, **settings: Any) -> Reply:
        """One reply to a text, to token ids or to a conversation (messages in the OpenAI form).

        Further settings, of all replies: `effort` (none to max) or `think_budget` (tokens) says how much the
        model may reason; the answer still follows.
        Errors: `CoterieError`, one line, for a prompt or a setting that cannot be used.
        """
        return self.generate_many([prompt], params, **settings)[0]

    def generate_many(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | None = None,
        max_batch: int = 32,
        **settings: Any,
    ) -> list[Reply]:
        """Replies to many prompts at once, in their order; each is what it would be alone (up to rounding).

        `max_batch`: sequences in one forward pass.
        Errors: as `generate`.
        """
        if isinstance(prompts, str):
            raise CoterieError("prompts: give a list of prompts; for a single text use generate")
        wish = ThinkingWish.taken_from(settings)
        its_params = self._params(params, settings)
        asked = [self._asked(prompt, wish, its_params) for prompt in prompts]
        ids, options = [one[0] for one in asked], [one[1] for one in asked]
        return self._engine(max_batch).generate(ids, its_params, options)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, **settings: Any) -> Iterator[str]:
        """The same reply as `generate` in pieces of text, as they become certain. Errors: as `generate`."""
        self._needs_tokenizer("a stream of text")
        wish = ThinkingWish.taken_from(settings)
        its_params = self._params(params, settings)
        ids, options = self._asked(prompt, wish, its_params)
        events = self._engine().stream(ids, its_params, options)
        return (event.text for event in events if event.text)

    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> Reply:
        """The assistant's next turn, unparsed. Errors: as `generate`.

        `coterie.text.replies.parse_reply(reply.text)` separates reasoning and tool calls from the text.
        """
        wish = ThinkingWish.taken_from(settings)
        its_params = self._params(params, settings)
        ids, options = self._asked(messages, wish, its_params, tools)
        return self._engine().generate([ids], its_params, [options])[0]

    def vote(
        self,
        prompt: Prompt,
        votes: int = 5,
        rule: VoteRule = "auto",
        params: SamplingParams | None = None,
        **settings: Any,
    ) -> VoteResult:
        """The answer that most of several sampled replies give, and the likeliest reply with it.

        `rule` finds answers (`reasoning.votes`). Errors: as `generate`; `ConfigError` at temperature 0.
        """
        wish = ThinkingWish.taken_from(settings)
        its_params = self._params(params, settings)
        asked = [self._asked(prompt, wish, its_params) for _ in range(votes)]
        # The replies share the keys and values of their prompt while they run; nothing is kept after that.
        engine = Engine(self.model, self.tokenizer, MOST_VOTES, prefix_bytes=1, kernels=self.kernels)
        return elect(engine, self._needs_tokenizer("a vote"), asked, its_params, rule)

    def process(self, reply: Reply) -> ReplyProcess:
        """The steps of a reply with their tokens, log-probabilities and checked sums."""
        return process_of(reply, self._needs_tokenizer("the steps of a reply"), self.stop_ids)

    def render(
        self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None, **variables: Any
    ) -> list[int]:
        """Token ids of a conversation, up to where the assistant begins to write.

        `variables`: what else the chat template reads.
        """
        turns = [
            message if isinstance(message, Message) else Message.from_dict(message) for message in messages
        ]
        tokenizer = self._needs_tokenizer("a conversation")
        return conversation_ids(tokenizer, turns, None, True, tools, variables)

    def _engine(self, max_batch: int = 32) -> Engine:
        """A new one for each call.

        One that keeps prefixes would make equal calls differ by rounding, and would have to notice when the
        weights change. `serve.inprocess` is for conversations.
        """
        return Engine(self.model, self.tokenizer, max_batch=max_batch, kernels=self.kernels)

    def _hidden(self, ids: Ids, recorder: Recorder | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states (T, D) of one sequence, and its ids as a tensor on the model's device."""
        given = id_list(ids)
        check_prompt(given, self.config.vocab_size, self.config.max_positions)
        ids_T = torch.tensor(given, device=self.device)
        context = ForwardContext.packed([len(given)], device=self.device, recorder=recorder)
        return self.model(ids_T, context), ids_T

    def _asked(
        self,
        prompt: Prompt,
        wish: ThinkingWish,
        params: SamplingParams,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[list[int], RequestOptions | None]:
        """A prompt's ids, and the bound on the reasoning of one reply."""
        variables = {}
        if wish:
            variables = wish.variables(self._needs_tokenizer("a bound on reasoning"), bool(tools))
        plain = isinstance(prompt, str | Tensor) or all(isinstance(item, int) for item in prompt)
        if not plain and not all(isinstance(item, Message | Mapping) for item in prompt):
            raise CoterieError(
                "prompt: give a text, a list of token ids, or a list of messages (role and content)"
            )
        ids = self._plain_ids(prompt) if plain else self.render(prompt, tools, **variables)  # type: ignore[arg-type]
        if not wish or self.tokenizer is None:
            return ids, None
        longest = max(1, min(params.max_tokens, self.config.max_positions - len(ids)))
        bound = wish.bound(self.tokenizer, self.config.vocab_size, ids, longest, not plain)
        return ids, RequestOptions(filter=bound)

    def _plain_ids(self, prompt: str | Ids) -> list[int]:
        if not isinstance(prompt, str):
            return id_list(prompt)
        named = self._needs_tokenizer("a text prompt").special_names_in(prompt)
        if named:
            _log.warning(
                "prompt: %s in it is read as letters, not as a token; give messages (`coterie chat`, "
                "model.chat) or token ids where a template is meant",
                ", ".join(named[:5]),
            )
        return self.encode(prompt)

    def _params(self, params: SamplingParams | None, settings: Mapping[str, Any]) -> SamplingParams:
        known = [field.name for field in fields(SamplingParams)]
        for name in settings:
            if name not in known:
                hint = suggest(name, known) or f"; known settings: {', '.join(known)}"
                raise ConfigError(f"sampling: unknown setting '{name}'{hint}")
        merged = replace(params or self.sampling, **settings)
        return merged if merged.stop_ids is not None else replace(merged, stop_ids=self.stop_ids)

    def _needs_tokenizer(self, what: str) -> Tokenizer:
        if self.tokenizer is None:
            raise CoterieError(
                f"model: {what} needs a tokenizer, and its directory holds none; give token ids instead"
            )
        return self.tokenizer


def load(
    path: str | Path,
    dtype: str = AUTO,
    device: str = "auto",
    check: bool = False,
    adapter: str | Path | None = None,
    template: str | None = None,
    quant: str | Precision | None = None,
    experts: str | ExpertPlace = "memory",
    kernels: str = "auto",
) -> LanguageModel:
    """Read a checkpoint directory or a hub id. `device` auto: the GPU if there is one.

    `dtype`: "float32", "bfloat16" or "float16"; "auto" is bfloat16 for models that are stored in 16 bits, or
    kept in codes, where the processor is fast in it, else float32 (`running_dtype`).
    `check`: run the stored probes. `adapter`: LoRA factors (ours or PEFT's) or an expert patch to apply, a
    directory or a hub id; given as `path`, such a directory loads the base that it names and is applied to
    it. A reply ends with the tokenizer's stop tokens and those of generation_config.json, whose sampling
    settings are the defaults of the replies. `template`: another chat template, a file or the name of a
    shipped one.
    `quant`: what the weights of each class are held in, as `Precision.parse` reads it: "int4",
    "experts=int4,attention=bf16", "stored" (as the files hold them); None: all as `dtype`.
    `experts`: where routed experts are: "memory", "disk" (read when they are chosen; for use, not for
    training) or "auto" (memory where all weights fit). `kernels`: of decoding: "native", "torch" or "auto".
    Errors: `CheckpointError` for a directory that is not a whole checkpoint, or an adapter or patch made for
    other weights; `ConfigError` for the device and for unknown kernels.
    """
    check_kernels(kernels)
    if adapter is None and is_variant(path):
        path, adapter = base_of(path), path
    if adapter is not None:
        adapter = find_variant(adapter)
    given = None if template is None else ChatTemplates.of(template_from(template))
    checkpoint = Checkpoint.open(path)
    precision = Precision.parse(quant) if isinstance(quant, str) else quant
    if check and precision is not None and precision.named:
        raise ConfigError(
            f"{path}: in other forms ({precision}) the weights answer unlike the probes; check without quant"
        )
    place = choose_device(device)
    chosen = running_dtype(dtype, checkpoint, place, precision)
    if not chosen.expected:
        _log.info("%s: runs in %s", checkpoint.path, chosen)
    where = ExpertPlace.parse(experts) if isinstance(experts, str) else experts
    loaded = checkpoint.load(chosen.dtype, place, None, check, precision, where)
    if adapter is not None:
        apply_in_place(loaded.model, adapter, checkpoint, check=check)
    if given is not None:
        if loaded.tokenizer is None:
            raise ConfigError(f"{path}: has no tokenizer, so it cannot use the chat template '{template}'")
        loaded.tokenizer.templates = given
    return LanguageModel(
        loaded.model,
        loaded.tokenizer,
        stop_ids=checkpoint.stops,
        sampling=_sampling(checkpoint),
        checkpoint=checkpoint,
        dtype=chosen,
        kernels=kernels,
    )


def _sampling(checkpoint: Checkpoint) -> SamplingParams:
    where = str(checkpoint.path / "generation_config.json")
    return sampling_defaults(checkpoint.generation_config, checkpoint.tokens.stop_strings, where)


def save(model: LanguageModel, path: str | Path, dtype: str | None = None, probes: bool = False) -> None:
    """Write a checkpoint directory that `load` and transformers read; `dtype` None keeps the parameters' own.

    `probes`: store what the model answers to a few texts, so that `load(path, check=True)` can prove that it
    is the same model. The manifest of its origin (parent, data card, metrics) is kept, and so is everything
    that its generation_config.json says.
    Errors: `CheckpointError`.
    """
    kept = travelling(model.manifest)
    generation = dict(model.checkpoint.generation_config) if model.checkpoint is not None else {}
    if model.stop_ids:
        generation["eos_token_id"] = list(model.stop_ids)
    save_model(path, model.model, model.tokenizer, dtype, kept, generation, probes)
