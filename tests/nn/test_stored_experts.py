"""Which experts are kept: those in use lately and often; what a step needs is never dropped."""

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config import ConfigError
from coterie.nn.experts import Experts
from coterie.nn.kernels.weights import ExpertWeights
from coterie.nn.quantised_tensor import QuantisedTensor
from coterie.nn.router import Routing
from coterie.nn.stored_experts import ExpertStore, Matrix, MatrixForm, put_on_disk

E, WIDTH, INNER = 6, 8, 4


class Numbers:
    """Reads from memory and notes what was asked for."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights
        self.reads: list[tuple[str, int]] = []

    def read(self, name: str, expert: int, target: Matrix) -> int:
        self.reads.append((name, expert))
        if isinstance(target, torch.Tensor):
            target.copy_(self.weights[name][expert])
        else:
            target.store(self.weights[name][expert : expert + 1])
        return self.weights[name][expert].nbytes

    def expect(self, name: str, experts: Sequence[int]) -> None: ...


def on_disk(room: int, bits: int | None = None) -> tuple[Experts, Experts, ExpertStore, Numbers]:
    """(in memory, on disk with places for `room` experts, its store, its reader)."""
    torch.manual_seed(0)
    plain = Experts(E, WIDTH, INNER).requires_grad_(False)
    stored = copy.deepcopy(plain)
    reader = Numbers(
        {"experts.gate_up.weight": plain.gate_up.weight, "experts.down.weight": plain.down.weight}
    )
    shapes = {name: tuple(weight.shape[1:]) for name, weight in reader.weights.items()}

    def form(name: str, _: object) -> MatrixForm:
        kind = torch.float32 if bits is None else torch.bfloat16
        return MatrixForm((shapes[name][0], shapes[name][1]), kind, bits, 4)

    each = sum(form(name, None).nbytes for name in shapes)
    store = put_on_disk(iter([(0, "experts", stored)]), form, reader, room * each)
    assert store.nbytes == room * each and store.whole == E * each and store.num_places == room
    return plain, stored, store, reader


def routing(ids: list[list[int]]) -> Routing:
    ids_TK = torch.tensor(ids)
    return Routing(ids_TK, torch.rand(ids_TK.shape, dtype=torch.float32), torch.rand(len(ids), E))


def test_the_same_numbers_with_one_place_as_with_all_in_memory() -> None:
    plain, stored, store, _ = on_disk(1)
    chosen = routing([[0, 1], [1, 5], [3, 0], [2, 4]])
    x_TD = torch.randn(4, WIDTH, dtype=torch.float32)
    assert torch.equal(stored.mix(x_TD, chosen), plain.mix(x_TD, chosen))
    assert torch.equal(stored.mix(x_TD, chosen, weigh_input=True), plain.mix(x_TD, chosen, weigh_input=True))
    assert store.figures.tolist() == [12, 12] and store.num_kept == 1


def test_quantised_experts_are_those_of_a_quantised_layer() -> None:
    plain, stored, _, _ = on_disk(2, bits=4)
    x_RD = torch.randn(5, WIDTH, dtype=torch.float32)
    counts = (2, 0, 1, 0, 0, 2)
    codes = []
    for weight in (plain.gate_up.weight, plain.down.weight):
        codes.append(QuantisedTensor(tuple(weight.shape), 4, 4))
        codes[-1].store(weight)
    wanted = plain.on_rows(x_RD, ExpertWeights(codes[0]), ExpertWeights(codes[1]), counts)
    assert stored.on_disk is not None
    assert torch.equal(stored.on_disk.on_rows(stored, x_RD, counts), wanted)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.integers(0, E - 1), min_size=1, max_size=3), min_size=1, max_size=12))
def test_what_a_step_needs_is_there_at_once(steps: list[set[int]]) -> None:
    _, _, store, reader = on_disk(3)
    layer = store.layers[0]
    for chosen in steps:
        layer.require(sorted(chosen))
        places = layer.table[sorted(chosen)]
        assert (places >= 0).all() and len(set(places.tolist())) == len(chosen)
        for expert in range(E):  # whoever has a place has its own numbers there
            if layer.table[expert] >= 0:
                place = int(layer.table[expert])
                assert layer.pool.owners[place] == expert
                assert torch.equal(layer.pool.down[place], reader.weights["experts.down.weight"][expert])


def test_the_busiest_stay_and_passing_ones_replace_each_other() -> None:
    _, stored, store, reader = on_disk(3)
    x_TD = torch.randn(1, WIDTH, dtype=torch.float32)
    for _ in range(5):
        stored.mix(x_TD, routing([[0, 1]]))
    reader.reads.clear()
    for passing in (2, 3, 4, 5):
        stored.mix(x_TD, routing([[0, passing]]))
    assert sorted(set(reader.reads)) == sorted(
        (name, passing) for name in reader.weights for passing in (2, 3, 4, 5)
    )
    assert (store.layers[0].table[:2] >= 0).all()
    store.growth = 1e30  # after a long time only late uses count
    for _ in range(20):
        stored.mix(x_TD, routing([[4, 5, 3]]))
    assert (store.layers[0].table[3:] >= 0).all() and torch.isfinite(store.layers[0].uses).all()


def test_a_profile_is_read_at_once() -> None:
    _, _, store, reader = on_disk(2)
    store.expect_uses({0: [1, 9, 2, 0, 8, 0]})
    assert {expert for _, expert in reader.reads} == {1, 4} and store.num_kept == 2


def test_training_and_whole_weights_are_refused() -> None:
    _, stored, _, _ = on_disk(2)
    x_TD = torch.randn(1, WIDTH, dtype=torch.float32, requires_grad=True)
    with pytest.raises(ConfigError, match=r"training needs all experts in memory; .*--experts memory"):
        stored.mix(x_TD, routing([[0, 1]]))
    with pytest.raises(ConfigError, match="needs all experts in memory"):
        _ = stored.gate_up.weight
    assert copy.deepcopy(stored).on_disk is stored.on_disk
