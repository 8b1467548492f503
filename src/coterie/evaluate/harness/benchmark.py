"""A task of lm-eval as a benchmark: its items, and its own verdicts on replies to them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any

from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict
from coterie.config import ConfigError
from coterie.evaluate.harness.tasks import FEWSHOT_SEED, PREFIX, harness_version, load_tasks, quiet
from coterie.evaluate.harness.trouble import one_line
from coterie.evidence.canonical import digest_bytes, digest_of
from coterie.results.evaluation import ScoringMode

_MODES: Mapping[str, ScoringMode] = {"generate_until": "reply", "loglikelihood_rolling": "text"}
_BITS = "bits_per_byte"
_INVALID = "[invalid]"  # what lm-eval's filters give where they find no answer


def harness_benchmarks(
    name: str, chat: bool = False, system: str | None = None, execute: bool = False
) -> list[HarnessBenchmark]:
    """The benchmarks of `lm-eval:NAME`: one, or those of a group.

    `chat`: items are conversations, which the model's chat template renders. `execute`: tasks may run the
    code of replies. Errors: `ConfigError`, one line.
    """
    name = name.removeprefix(PREFIX)
    found = [HarnessBenchmark(task, chat, system) for task in load_tasks(name)]
    for one in found:
        if one.executes and not execute:
            raise ConfigError(f"{one.name}: runs the code of replies; allow it with allow_code=true")
    return found


class HarnessBenchmark(Benchmark):
    """One task. An item's `facts` are the requests that lm-eval makes of it; few-shot examples stand there.

    `system`: a system message. Errors: `ConfigError` where the task has no score per item.
    """

    def __init__(self, task: Any, chat: bool = False, system: str | None = None) -> None:
        self.task, self.chat, self.system = task, chat, system
        self.name = f"{PREFIX}{task.task_name}"
        self.says = f"{task.task_name} of lm-eval"
        self.kind: str = task.OUTPUT_TYPE
        self.version = f"{harness_version()}/{task.VERSION}"
        self.mode = _MODES.get(self.kind, "choice")
        self.metric = _BITS if self.mode == "text" else self._first_metric()
        self.executes = bool(getattr(task, "UNSAFE_CODE", False))
        self.max_tokens = int((task.get_config("generation_kwargs") or {}).get("max_gen_toks", 256))

    cluster_key = "question"
    published = True  # its items are those of others, equal ones included

    def _first_metric(self) -> str:
        better = self.task.higher_is_better()
        for name, aggregation in self.task.aggregation().items():
            if getattr(aggregation, "__name__", "") in ("mean", "nanmean") and better.get(name, True):
                return str(name)
        names = ", ".join(self.task.aggregation())
        raise ConfigError(
            f"{self.name}: its metrics ({names}) are no means over items, so no item has a score"
        )

    @property
    def fewshot(self) -> list[str]:
        """In words: how many examples are shown, and which are drawn."""
        number = int(self.task.get_config("num_fewshot") or 0)
        return [f"{number} examples, seed {FEWSHOT_SEED}"] if number else []

    @cached_property
    def _requests(self) -> dict[str, list[Any]]:
        """lm-eval's requests by item. All are made at once: examples are drawn in the order of items."""
        with quiet(), one_line(self.name, "lm-eval"):
            self.task.build_all_requests(
                system_instruction=self.system,
                apply_chat_template=self.chat,
                fewshot_as_multiturn=True,
                chat_template=_as_json if self.chat else None,
            )
        found: dict[str, list[Any]] = {}
        for request in sorted(self.task.instances, key=lambda one: (one.doc_id, one.idx)):
            found.setdefault(str(request.doc_id), []).append(request)
        return found

    @cached_property
    def _items(self) -> list[BenchmarkItem]:
        with one_line(self.name, "lm-eval"):
            return [self._item(number, requests) for number, requests in self._requests.items()]

    def items(self) -> Sequence[BenchmarkItem]:
        """See `Benchmark`."""
        return self._items

    def requests(self, item: BenchmarkItem) -> list[Any]:
        """New `Instance` objects for an item, without answers."""
        found = [copy(request) for request in self._requests[item.id]]
        for request in found:
            request.resps, request.filtered_resps = [], {}
        return found

    def _item(self, number: str, requests: Sequence[Any]) -> BenchmarkItem:
        doc, target = requests[0].doc, self.task.doc_to_target(requests[0].doc)
        if self.mode == "text":
            question = target
        else:
            question = self.task.doc_to_text(doc)
        if not isinstance(question, str):  # the number of the right one of several contexts
            target, question = question, str(requests[0].args[0])
        choices = tuple(request.args[1] for request in requests) if self.mode == "choice" else ()
        return BenchmarkItem(
            id=number,
            turns=({"role": "user", "content": question},),
            answer=_plain(target),
            choices=choices,
            cluster=digest_of([question, list(choices)])[7:23],
            facts={"requests": [_plain(list(request.args)) for request in requests], "doc": _digest(doc)},
        )

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """lm-eval's own verdict, by the task's first filter."""
        try:
            return self._judged(item, reply)
        except Exception as error:  # what a task's functions raise is theirs
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            return ItemVerdict(score=0.0, failed=True, why=why)

    def _judged(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        if self.mode == "text":
            size = len(str(item.answer).encode())
            return ItemVerdict(score=-reply.logprobs[0] / math.log(2) / size, lower_is_better=True)
        requests = self.requests(item)
        if self.mode == "reply":
            texts = [str(turn["content"]) for turn in reply.turns] or [reply.text]
            requests[0].resps = texts
        else:
            for request, logprob, greedy in zip(requests, reply.logprobs, reply.greedy, strict=True):
                request.resps = [(logprob, greedy)]
        with quiet():
            metrics = {each.name: self._metrics(each, requests) for each in self.task._filters}
        first, *others = metrics
        found = metrics[first]
        score = float(found[self.metric])
        if not 0 <= score <= 1:
            return ItemVerdict(score=0.0, failed=True, why=f"{self.metric} {score:g} is not between 0 and 1")
        extracted = str(requests[0].filtered_resps[first]) if self.mode == "reply" else _best(item, reply)
        return ItemVerdict(
            score=score,
            extracted=extracted,
            lenient=self._lenient(found, [metrics[other] for other in others]),
            unparsed=extracted == _INVALID,
        )

    def _metrics(self, filters: Any, requests: Sequence[Any]) -> Mapping[str, Any]:
        filters.apply(requests)
        found: Mapping[str, Any] = self.task.process_results(
            requests[0].doc, [request.filtered_resps[filters.name] for request in requests]
        )
        return found

    def _lenient(self, found: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> float | None:
        """Choices: by length. Replies: the best of further filters, which look in more places."""
        if self.mode == "choice":
            value = found.get("acc_norm", found.get("acc_bytes"))
            return None if value is None else float(value)
        return max((float(other[self.metric]) for other in others), default=None)


def _as_json(history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
    """A conversation as text that `harness.subject` turns into messages again."""
    if not add_generation_prompt:
        raise ConfigError("begins the model's reply (gen_prefix), which a chat cannot go on with; form=plain")
    return json.dumps([dict(message) for message in history])


def _best(item: BenchmarkItem, reply: ItemReply) -> str:
    return item.choices[max(range(len(item.choices)), key=lambda place: reply.logprobs[place])]


def _plain(value: Any) -> Any:
    """A value of JSON types, as lm-eval writes it."""
    from lm_eval.utils import handle_non_serializable

    return json.loads(json.dumps(value, default=handle_non_serializable))


def _digest(doc: Any) -> str:
    return digest_bytes(json.dumps(_plain(doc), sort_keys=True, ensure_ascii=False).encode())
