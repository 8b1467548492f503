"""Speculation: tokens that may come next are fed with the one that must, and kept where they were right.

Each token is drawn from its own logits by its own random number (`infer.sampling`), whether it was drafted
or not. So a draft changes when a token is computed and never which one is drawn: a native step gives the same
bits for a token fed alone or behind others, and the module gives them up to rounding.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from coterie.config import ConfigError
from coterie.config.mixers import STATE_MIXERS
from coterie.config.speculate import Speculate
from coterie.infer.drafts import Drafts
from coterie.infer.forward import Feeding, steps_alone
from coterie.infer.lookup import Prediction
from coterie.infer.request import Request, RequestOptions
from coterie.infer.variant import Variant
from coterie.nn.transformer import Transformer

LONGEST = 15  # drafted tokens of a sequence
_MOST_ROWS = 64  # of a step through the module
_GAIN = 1.05  # tokens per second that drafts must promise: what is noise is not worth a longer step
_SLOPE = 0.15  # what a further row of a step is taken to cost until it was measured, in steps of one row


class StepCost:
    """What a step costs by its number of rows, relative to others: measured while it runs.

    Other work on the machine makes all steps slower. That goes into one factor, so that costs of different
    moments can be compared.
    """

    def __init__(self) -> None:
        self._seconds: float | None = None  # of a step of cost 1
        self._costs: dict[int, float] = {}

    def of(self, num_rows: int) -> float:
        """The cost of a step: measured, or on a line through the nearest measured ones."""
        if num_rows in self._costs or not self._costs:
            return self._costs.get(num_rows, 1.0 + _SLOPE * (num_rows - 1))
        known = sorted(self._costs)
        place = bisect_left(known, num_rows)
        if place == 0:
            return self._costs[known[0]] / (1.0 + _SLOPE * (known[0] - num_rows))
        low = known[place - 1]
        if place == len(known):
            return self._costs[low] * (1.0 + _SLOPE * (num_rows - low))
        high = known[place]
        part = (num_rows - low) / (high - low)
        return self._costs[low] + part * (self._costs[high] - self._costs[low])

    def note(self, num_rows: int, seconds: float) -> None:
        """Learn from a step."""
        seconds = max(seconds, 1e-9)
        if self._seconds is None:
            self._seconds = seconds / self.of(num_rows)
        if num_rows not in self._costs:
            self._costs[num_rows] = max(seconds / self._seconds, 1e-3)
            return
        off = min(2.0, max(0.5, seconds / (self._seconds * self._costs[num_rows])))
        self._seconds *= off**0.2
        self._costs[num_rows] *= off**0.1


class Speculation:
    """Decides which sequences of a step get how long a draft.

    `num_drafted`, `num_accepted`: tokens so far. Drafts come with steps in which every sequence generates;
    they are as long as promises the most tokens per second, by what steps have cost and by how often drafts
    were right. So they are off where they do not pay, and where many sequences run.
    Errors: `ConfigError` for a mode that the model cannot have.
    """

    def __init__(self, model: Transformer, mode: Speculate = "off", deterministic: bool = False) -> None:
        self.mode = mode
        self.num_drafted = 0
        self.num_accepted = 0
        self._cannot = cannot(model)
        self._deterministic = deterministic
        self._costs: dict[tuple[Variant, bool], StepCost] = {}
        self._noted: tuple[StepCost, int] | None = None
        self.check(mode, "--speculate")

    def check(self, mode: Speculate, where: str) -> None:
        """Errors: `ConfigError` for a mode that the model cannot have."""
        if self._cannot is not None and mode not in ("off", "auto"):
            raise ConfigError(f"{where} {mode}: {self._cannot}; use auto or off")

    def __str__(self) -> str:
        return self.mode if self.mode == "off" or self._cannot is None else f"off ({self._cannot})"

    def begin(self, options: RequestOptions) -> Drafts | None:
        """What a new request's drafts are made from; None where there will be none.

        A request with a prediction gets drafts from it where they change no bit, whatever the engine's mode.
        """
        mode = options.speculate or ("auto" if options.prediction and self.mode == "off" else self.mode)
        self.check(mode, "speculate:")
        if mode == "off" and not options.prediction:
            return None
        return Drafts(mode, Prediction(options.prediction) if options.prediction else None)

    def drafted(self, feeding: Feeding) -> Feeding:
        """The same step with drafts."""
        self._noted = None
        if self._cannot is not None or all(request.drafts is None for request, _ in feeding):
            return feeding
        variant = feeding[0][0].variant
        native = steps_alone(*feeding[0])
        for request, count in feeding:
            alike = request.variant is variant and steps_alone(request, count) == native
            if count != 1 or not request.num_drawn or not alike:
                return feeding
        cost = self._costs.setdefault((variant, native), StepCost())
        most = variant.plan.most if native and not isinstance(variant.plan, str) else _MOST_ROWS
        if len(feeding) < most:
            drafting = [one for one, _ in feeding if self._propose(one, native, most - len(feeding))]
            lengthen(drafting, cost, len(feeding), most)
        feeding = [(request, 1 + len(request.draft)) for request, _ in feeding]
        self._noted = cost, sum(count for _, count in feeding)
        return feeding

    def note(self, feeding: Feeding, seconds: float) -> None:
        """Learn from a step: what it cost, and which drafts were right."""
        if self._noted is not None:
            cost, rows = self._noted
            cost.note(rows, seconds)
        for request, _ in feeding:
            if request.drafts is not None:
                self.num_drafted += request.drafts.fed
                self.num_accepted += request.drafts.learn(request.tokens)

    def _propose(self, request: Request, native: bool, most: int) -> bool:
        """Whether the sequence has a draft now, none of it fed yet."""
        drafts = request.drafts
        if drafts is None or drafts.mode == "off" or (not native and self._must_be_exact(drafts)):
            return False
        # One more token is drawn after those of the draft; a sequence that turns long is read again.
        most = min(most, LONGEST, request.limit - request.num_drawn - 1)
        beyond = request.variant.rope_switch
        if beyond is not None and not request.cache.long:
            most = min(most, beyond - len(request.tokens))
        if most > 0:
            drafts.propose(request.tokens, most)
        return bool(drafts.proposal)

    def _must_be_exact(self, drafts: Drafts) -> bool:
        return self._deterministic or drafts.mode == "auto"


def cannot(model: Transformer) -> str | None:
    """Why no reply of a model can have drafts; None when it can."""
    if any(isinstance(block.attention, STATE_MIXERS) for block in model.config.blocks):
        return "layers with a state cannot take tokens back"
    return None


def lengthen(requests: Sequence[Request], cost: StepCost, num_sequences: int, most: int) -> None:
    """Give each request as much of its draft as promises the most tokens per second of the whole step."""
    likely: list[tuple[float, int]] = []  # that a token and all before it are right; whose it is
    for index, request in enumerate(requests):
        assert request.drafts is not None
        share = request.drafts.right[request.drafts.kind]
        likely += [(share**place, index) for place in range(1, len(request.drafts.proposal) + 1)]
    likely.sort(key=lambda one: -one[0])
    tokens, best, chosen = float(num_sequences), _GAIN * num_sequences / cost.of(num_sequences), 0
    for count, (chance, _) in enumerate(likely[: most - num_sequences], 1):
        tokens += chance
        if tokens / cost.of(num_sequences + count) > best:
            best, chosen = tokens / cost.of(num_sequences + count), count
    for _, index in likely[:chosen]:
        drafts = requests[index].drafts
        assert drafts is not None
        requests[index].draft.append(drafts.proposal[drafts.fed])
        drafts.fed += 1
