"""What a comparison of models on a user's examples measured, and its verdict."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from coterie.config import Settings
from coterie.results.compare_tuned import TunedComparison
from coterie.results.evaluation import ModelIdentity
from coterie.results.intervals import Estimate
from coterie.results.paired import PairedDifference
from coterie.results.routing import ModelRouting
from coterie.results.verdict import QualityFinding, choice, leading, listing, quality_reasons, quality_words

EXAMPLES = "your examples"


class ComparedModel(Settings):
    """One model; None is what is not known, as for a model behind a server.

    `served`: behind a URL. `bits`: per byte of the answers in a user's examples; `blind`: why it has none.
    `scores`: of each task. Speeds are in tokens per second: of reading a prompt, of one reply, of `clients`
    replies at once together. `weight_bytes`: of the weights in memory. `dollars`: per million tokens of
    replies to all clients. `kernels`: what decoding ran on. `routing`: of a mixture
    that is here, on the user's examples.
    """

    name: str
    served: bool = False
    identity: ModelIdentity
    family: str | None = None
    parameters: int | None = None
    active_parameters: int | None = None
    bits: float | None = None
    blind: str = ""
    scores: dict[str, Estimate] = Field(default_factory=dict)
    prefill: float | None = None
    one: float | None = None
    many: float | None = None
    clients: int
    weight_bytes: int | None = None
    kernels: str = ""
    dollars: float | None = None
    routing: ModelRouting | None = None


class ModelPair(Settings):
    """Two models on the same examples and items.

    `examples`: bits per byte of the answers; None where one of the two gives none. `tasks`: scores by task.
    The p values of all pairs are corrected together.
    """

    first: str
    second: str
    examples: PairedDifference | None
    tasks: dict[str, PairedDifference]

    @property
    def measures(self) -> dict[str, PairedDifference]:
        """What the two are compared on, the examples first."""
        return ({} if self.examples is None else {EXAMPLES: self.examples}) | self.tasks

    def words(self) -> str:
        """What the intervals and tests show, in one sentence."""
        parts = []
        for name, found in self.measures.items():
            shown = {"second": "better", "first": "worse", None: "no difference shown"}[found.better]
            why = "" if found.better else f"; {found.why_not}"
            corrected = "" if found.p_holm is None else f", corrected p = {found.p_holm:.2g}"
            parts.append(f"{name}: {shown}, {found.words()[:-1]}{corrected}{why})")
        return f"{self.second} against {self.first}: {'; '.join(parts)}."


class ModelComparison(Settings):
    """Several models on the same examples and tasks; `pairs`: every two of them.

    `left_out`: examples that at least one of the models cannot read, and why for the first of them. `tuned`:
    what the same tuning gained.
    """

    models: list[ComparedModel]
    pairs: list[ModelPair]
    examples: int
    left_out: int
    left_out_why: str = ""
    tuned: TunedComparison | None = None
    price_per_hour: float | None = None
    machine: str
    versions: dict[str, str]

    def shown(self) -> list[QualityFinding]:
        """What the pairs show on each measure."""
        names = list(dict.fromkeys(name for pair in self.pairs for name in pair.measures))
        return [
            QualityFinding(name, tuple(found for pair in self.pairs for found in _shown(pair, name)))
            for name in names
        ]

    def verdict(self) -> str:
        """Which model to choose, and for what, as far as intervals and tests show it."""
        reasons = quality_reasons([model.name for model in self.models], self.shown())
        for what, values, larger in (("speed", self._paces(), True), ("memory", self._sizes(), False)):
            ahead = leading(values, larger)
            if len(ahead) == 1 < len(values):
                reasons[ahead[0]].append(what)
        return choice(reasons)

    def lines(self) -> list[str]:
        """The findings as sentences: the verdict, what it rests on, then each pair."""
        return [*self._lines()]

    def _lines(self) -> Iterator[str]:
        yield self.verdict()
        yield quality_words([model.name for model in self.models], self.shown())
        yield from self._speed()
        yield from self._memory()
        for pair in self.pairs:
            yield pair.words()
        for model in self.models:
            if model.routing is not None:
                yield f"{model.name} routes your examples so: {model.routing.words()}."
        if self.tuned is not None:
            yield from self.tuned.lines()
        for model in self.models:
            if model.blind:
                yield f"{model.name} is not compared on your examples: {model.blind}"
            if model.identity.weights_tensors is None:
                yield f"{model.name}: the server does not say which weights answered."
        if self.left_out:
            many = "1 example was" if self.left_out == 1 else f"{self.left_out} examples were"
            yield f"{many} left out for all models: {self.left_out_why}"

    def _speed(self) -> Iterator[str]:
        """The fastest, and which speeds are of a server."""
        paces = self._paces()
        ahead = leading(paces, True)
        clients = self.models[0].clients
        pace = f"{paces[ahead[0]]:.0f} tokens per second for {clients} clients together" if ahead else ""
        if len(ahead) == 1 < len(paces):
            yield f"The fastest is {ahead[0]} ({pace})."
        elif len(ahead) > 1:
            yield f"{listing(ahead)} are about equally fast ({pace})."
        served = [model.name for model in self.models if model.served]
        if served:
            yield (
                f"The speed of {listing(served)} is that of streamed replies through the server: its "
                "machine, its load and the network are in it."
            )
        unknown = [model.name for model in self.models if model.many is None]
        if unknown:
            yield f"The speed of {listing(unknown)} is not known: the replies were too short to time."

    def _memory(self) -> Iterator[str]:
        sizes = self._sizes()
        small = leading(sizes, False)
        if len(small) == 1 < len(sizes):
            yield f"The smallest is {small[0]} ({sizes[small[0]] / 1e6:,.1f} MB of weights)."
        unknown = [model.name for model in self.models if model.weight_bytes is None]
        if unknown:
            yield f"Memory and cost of {listing(unknown)} are not known from here."

    def _paces(self) -> dict[str, float]:
        return {model.name: model.many for model in self.models if model.many is not None}

    def _sizes(self) -> dict[str, float]:
        return {model.name: model.weight_bytes for model in self.models if model.weight_bytes is not None}


def _shown(pair: ModelPair, measure: str) -> Iterator[tuple[str, str]]:
    """(better, worse), where the pair shows it."""
    found = pair.measures.get(measure)
    if found is not None and found.better is not None:
        names = (pair.first, pair.second)
        yield names if found.better == "first" else names[::-1]
