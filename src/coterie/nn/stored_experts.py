"""Routed experts whose weights lie in files: as many as have room are in memory, read when they are chosen.

E experts of a layer, S places in memory, O output and I input features, N rows of one expert.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, Self

import torch
from torch import Tensor, nn

from coterie.config import ConfigError
from coterie.nn.experts import ExpertLinear, RoutedExperts
from coterie.nn.kernels.weights import Counts, ExpertWeights, segments
from coterie.nn.quantised_tensor import QuantisedTensor

_HALVED = 512.0  # visits of all layers after which a use counts half as much, times the number of layers
_LARGEST = 1e200
Matrix = Tensor | QuantisedTensor


class ExpertReader(Protocol):
    """Reads the weights of single experts from wherever they lie."""

    def read(self, name: str, expert: int, target: Matrix) -> int:
        """Fill `target` (1, O, I) with the expert's matrix of the parameter `name`; the bytes that were read.

        Errors: `CheckpointError` for a file that changed or cannot be read.
        """
        ...

    def expect(self, name: str, experts: Sequence[int]) -> None:
        """Say that these will be read soon, so that the system can begin."""
        ...


@dataclass(frozen=True)
class MatrixForm:
    """What one matrix of an expert is held in: `dtype`, or codes of `bits` in blocks with scales of `dtype`.

    `kept`: the codes are those of the file.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    bits: int | None = None
    block: int = 0
    kept: bool = False

    def make(self, count: int) -> Matrix:
        """Memory for `count` of them, uninitialised."""
        if self.bits is None:
            return torch.empty(count, *self.shape, dtype=self.dtype)
        codes = QuantisedTensor((count, *self.shape), self.bits, self.block)
        if self.kept or self.dtype != torch.bfloat16:
            codes.keep(self.block, self.dtype)
            codes.kept = self.kept
        return codes

    def words(self, names: Mapping[torch.dtype, str]) -> str:
        """For people, such as `int4 in blocks of 64`; `names`: of the types."""
        if self.bits is None:
            return names.get(self.dtype, str(self.dtype))
        return f"int{self.bits} in blocks of {self.block}"

    @property
    def nbytes(self) -> int:
        """Bytes of one of them."""
        with torch.device("meta"):
            return self.make(1).nbytes


def part_of(matrices: Matrix, place: int) -> Matrix:
    """The matrix at `place` as (1, O, I); it shares the memory of `matrices` (S, O, I)."""
    return matrices[place : place + 1] if isinstance(matrices, Tensor) else matrices.part(place)


class Pool:
    """Places for experts of one form, shared by the layers that have it.

    `first` and `down` (S, O, I): their matrices. `owners`: the index of the expert at each place (-1: none).
    `tables`: the place of each expert of these layers (-1: not in memory). `uses`: how often each was chosen,
    later uses counting more.
    """

    def __init__(self, forms: tuple[MatrixForm, MatrixForm], num_places: int, num_experts: int) -> None:
        self.first, self.down = (form.make(num_places) for form in forms)
        self.nbytes = sum(form.nbytes for form in forms)  # of one expert
        self.owners = torch.full((num_places,), -1, dtype=torch.int64)
        self.uses = torch.zeros(num_experts, dtype=torch.float64)
        self.tables = torch.full((num_experts,), -1, dtype=torch.int64)
        self.num_used = 0

    @property
    def num_places(self) -> int:
        """Experts that have room."""
        return len(self.owners)

    def take(self, pinned: Collection[int]) -> int:
        """A place to read an expert into: a free one, or that of the expert with the least use.

        The expert that was there is no longer in memory. `pinned`: places that stay as they are.
        """
        if self.num_used < self.num_places:
            self.num_used += 1
            return self.num_used - 1
        scores = torch.where(self.owners < 0, -1.0, self.uses[self.owners.clamp(min=0)])
        if pinned:
            scores[list(pinned)] = math.inf
        place = int(scores.argmin())
        self.leave(place)
        return place

    def leave(self, place: int) -> None:
        """Forget the expert at a place."""
        owner = int(self.owners[place])
        if owner >= 0:
            self.tables[owner] = -1
            self.owners[place] = -1


@dataclass
class LayerExperts:
    """One layer's experts. `names`: of their first and their second matrix, as parameters of the model.

    `table` and `uses` (E,): the place of each in the pool (-1: not in memory), and its uses.
    """

    store: ExpertStore
    pool: Pool
    names: tuple[str, str]
    start: int  # of its experts among those of the pool
    num_experts: int
    table: Tensor = field(init=False)
    uses: Tensor = field(init=False)

    def __post_init__(self) -> None:
        own = slice(self.start, self.start + self.num_experts)
        self.table, self.uses = self.pool.tables[own], self.pool.uses[own]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copy of the model shares its experts

    def require(self, experts: Sequence[int]) -> None:
        """Have these experts in memory, all at once. Errors: `CheckpointError` for what cannot be read."""
        places = self.table.tolist()
        pinned = {places[expert] for expert in experts if places[expert] >= 0}
        missing = [expert for expert in experts if places[expert] < 0]
        self.expect(missing)
        for expert in missing:
            pinned.add(self._read(expert, pinned))

    def expect(self, experts: Sequence[int]) -> None:
        """Say that these will be read soon."""
        if experts:
            for name in self.names:
                self.store.reader.expect(name, experts)

    def _read(self, expert: int, pinned: Collection[int]) -> int:
        pool, place = self.pool, self.pool.take(pinned)
        for name, matrices in zip(self.names, (pool.first, pool.down), strict=True):
            self.store.bytes_read += self.store.reader.read(name, expert, part_of(matrices, place))
        pool.owners[place] = self.start + expert
        self.table[expert] = place
        return place

    def matrices(self, experts: RoutedExperts, expert: int, dtype: torch.dtype) -> tuple[ExpertWeights, ...]:
        """Both layers of one expert as weights of a layer that has only it; read first if it is not there."""
        if self.table[expert] < 0:
            self.store.figures[1] += 1
            self._read(expert, ())
        place = int(self.table[expert])
        weights = []
        for layer, matrices in ((experts.first, self.pool.first), (experts.down, self.pool.down)):
            matrix = part_of(matrices, place)
            bias = None if layer.bias is None else layer.bias[expert : expert + 1]
            weights.append(ExpertWeights(matrix.to(dtype) if isinstance(matrix, Tensor) else matrix, bias))
        return tuple(weights)

    def on_rows(self, experts: RoutedExperts, x_RD: Tensor, counts: Counts) -> Tensor:
        """(R, D): rows sorted by expert, one expert after the other, so that one place is enough.

        Errors: `ConfigError` for training.
        """
        if torch.is_grad_enabled() and x_RD.requires_grad:
            refuse("training")
        store, parts = self.store, segments(counts)
        y_RD = torch.empty_like(x_RD)
        with store:
            chosen = [expert for expert, _ in parts]
            store.figures[0] += len(parts)
            store.weight *= store.growth
            self.uses[chosen] += store.weight * torch.tensor([counts[e] for e in chosen], dtype=torch.float64)
            places = self.table.tolist()
            missing = iter([expert for expert in chosen if places[expert] < 0])
            self.expect([expert for _, expert in zip(range(2), missing, strict=False)])
            for expert, rows in parts:
                if places[expert] < 0:
                    self.expect([following for following in [next(missing, None)] if following is not None])
                first, down = self.matrices(experts, expert, x_RD.dtype)
                y_RD[rows] = experts.on_rows(x_RD[rows], first, down, (rows.stop - rows.start,))
        return y_RD


class ExpertStore:
    """All experts of a model that lie in files, and what of them is in memory.

    Used as a context while experts are at work: one thread at a time. `figures`: how often an expert was
    needed, and how often it was not in memory. `weight`: what one use counts now.
    """

    def __init__(self, reader: ExpertReader) -> None:
        self.reader = reader
        self.layers: dict[int, LayerExperts] = {}
        self.pools: list[Pool] = []
        self.figures = torch.zeros(2, dtype=torch.int64)
        self.weight = torch.ones(1, dtype=torch.float64)
        self.growth = 1.0
        self.bytes_read = 0
        self.num_numbers = 0
        self.failure: BaseException | None = None
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __enter__(self) -> Self:
        self._lock.acquire()
        if float(self.weight) > _LARGEST:
            for pool in self.pools:
                pool.uses /= self.weight
            self.weight.fill_(1.0)
        return self

    def __exit__(self, *error: object) -> None:
        failure, self.failure = self.failure, None
        self._lock.release()
        if failure is not None:
            raise failure

    @property
    def nbytes(self) -> int:
        """Bytes of memory for experts."""
        return sum(pool.nbytes * pool.num_places for pool in self.pools)

    @property
    def whole(self) -> int:
        """Bytes that all experts would take in memory."""
        return sum(layer.pool.nbytes * layer.num_experts for layer in self.layers.values())

    @property
    def num_places(self) -> int:
        """Experts that have room in memory."""
        return sum(pool.num_places for pool in self.pools)

    @property
    def num_experts(self) -> int:
        """Experts of all layers."""
        return sum(layer.num_experts for layer in self.layers.values())

    @property
    def num_kept(self) -> int:
        """Experts that are in memory now."""
        return sum(int((pool.owners >= 0).sum()) for pool in self.pools)

    def __str__(self) -> str:
        """What lies where, for people."""
        return (
            f"experts on disk: memory for {self.num_places:,} of {self.num_experts:,} "
            f"({self.nbytes / 1e9:.2f} of {self.whole / 1e9:.2f} GB)"
        )

    def facts(self) -> dict[str, int]:
        """Figures since the start. `uses`: how often an expert was needed; `reads`: how often from disk."""
        uses, reads = self.figures.tolist()
        return {
            "experts": self.num_experts,
            "places": self.num_places,
            "kept": self.num_kept,
            "bytes_in_memory": self.nbytes,
            "bytes_on_disk": self.whole,
            "uses": uses,
            "hits": uses - reads,
            "reads": reads,
            "bytes_read": self.bytes_read,
        }

    def expect_uses(self, counts: Mapping[int, Sequence[float]]) -> None:
        """Count these uses by layer as the past, and read the experts that had most until memory is full."""
        order: list[tuple[float, int, int]] = []
        for index, layer in self.layers.items():
            numbers = torch.tensor(counts[index], dtype=torch.float64)
            layer.uses += numbers / max(1.0, float(numbers.sum())) * layer.num_experts
            order += [(float(uses), index, expert) for expert, uses in enumerate(layer.uses)]
        with self:
            for _, index, expert in sorted(order, key=lambda entry: (-entry[0], *entry[1:])):
                layer = self.layers[index]
                if layer.pool.num_used < layer.pool.num_places:
                    layer.require([expert])


class StoredExpertLinear(ExpertLinear):
    """An `ExpertLinear` whose matrices a store reads; it takes over `base`'s bias.

    It has no `weight`: whatever needs all of them is refused.
    """

    def __init__(self, base: ExpertLinear, form: MatrixForm, is_first: bool) -> None:
        nn.Module.__init__(self)
        self.is_first = is_first
        self.num_experts = base.num_experts
        self.in_features, self.out_features = base.in_features, base.out_features
        self.bias, self.form = base.bias, form
        self.layer: LayerExperts | None = None

    @property
    def places(self) -> tuple[Matrix, Tensor]:
        """The matrices in memory (S, O, I), and the place of each expert among them (E,), -1 for none."""
        layer = self.layer
        assert layer is not None
        return layer.pool.first if self.is_first else layer.pool.down, layer.table

    @property
    def weight(self) -> NoReturn:  # type: ignore[override]
        """Errors: `ConfigError`."""
        refuse("this")

    def weights(self, dtype: torch.dtype) -> ExpertWeights:
        """Errors: `ConfigError`: they are never in memory together."""
        refuse("this")


def refuse(what: str) -> NoReturn:
    """Errors: `ConfigError`, one line."""
    raise ConfigError(f"experts: {what} needs all experts in memory; load the model with --experts memory")


Layers = Iterator[tuple[int, str, RoutedExperts]]


def put_on_disk(
    layers: Layers,
    form_of: Callable[[str, ExpertLinear], MatrixForm],
    reader: ExpertReader,
    room: int,
) -> ExpertStore:
    """Give layers of experts (index, name, experts) on the meta device a store, which `reader` reads for.

    `form_of`: of a layer and the name of its weight. `room`: bytes of memory for experts, at least those of
    one; it is divided among pools of one form by the bytes of their experts.
    """
    store = ExpertStore(reader)
    found: dict[tuple[MatrixForm, MatrixForm], list[tuple[int, RoutedExperts, tuple[str, str]]]] = {}
    for index, name, experts in layers:
        parts = (experts.first_name, "down")
        names = f"{name}.{parts[0]}.weight", f"{name}.{parts[1]}.weight"
        forms = form_of(names[0], experts.first), form_of(names[1], experts.down)
        store.num_numbers += experts.first.num_experts * sum(math.prod(form.shape) for form in forms)
        for part, form in zip(parts, forms, strict=True):
            setattr(experts, part, StoredExpertLinear(getattr(experts, part), form, part != "down"))
        found.setdefault(forms, []).append((index, experts, names))
    sizes = {
        forms: sum(form.nbytes for form in forms) * sum(one.first.num_experts for _, one, _ in group)
        for forms, group in found.items()
    }
    for forms, group in found.items():
        count = sum(experts.first.num_experts for _, experts, _ in group)
        share = room * sizes[forms] // sum(sizes.values())
        pool = Pool(forms, min(count, max(1, share // sum(form.nbytes for form in forms))), count)
        store.pools.append(pool)
        start = 0
        for index, experts, names in group:
            layer = LayerExperts(store, pool, names, start, experts.first.num_experts)
            store.layers[index] = experts.on_disk = layer
            for linear in (experts.first, experts.down):
                assert isinstance(linear, StoredExpertLinear)
                linear.layer = layer
            start += layer.num_experts
    store.growth = 2.0 ** (1 / (_HALVED * max(1, len(store.layers))))
    return store
