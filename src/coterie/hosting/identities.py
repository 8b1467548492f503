"""Which weights a server runs: the identity of its model and of each adapter, computed once and kept."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from coterie.identity.model import model_identity
from coterie.identity.profile import exec_profile
from coterie.identity.tensors import weight_tree
from coterie.identity.tree import WeightTree
from coterie.infer.model import LanguageModel
from coterie.nn.transformer import Transformer
from coterie.results.evaluation import ExecProfile, ModelIdentity


@dataclass(frozen=True)
class ServedIdentity:
    """What a server says of the weights that it runs; `tree` without the leaves."""

    identity: ModelIdentity
    profile: ExecProfile
    tree: WeightTree


class Identities:
    """The identities of one loaded model and its adapters. Belongs to the event loop.

    `kernels`: what decoding steps run on, in words.
    """

    def __init__(self, base: LanguageModel, kernels: str) -> None:
        self._base, self._kernels = base, kernels
        self._made: dict[str, tuple[weakref.ref[Transformer], asyncio.Task[ServedIdentity]]] = {}

    async def of(self, name: str, variant: str, model: Transformer) -> ServedIdentity:
        """The identity of the model that `variant` selects now ("": the base), under the name `name`.

        The tensors are hashed in a thread when they are first asked for; several who ask wait for the same
        work, which goes on when one of them leaves.
        """
        lineage: tuple[str, ...] = ()
        if variant:
            base = await self._task("", self._base.model, self._work("", self._base.model, ()))
            lineage = (str(base.identity.weights_tensors),)
        found = await self._task(variant, model, self._work(name, model, lineage))
        named = found.identity.model_copy(update={"name": name})
        return ServedIdentity(named, found.profile, found.tree)

    def _work(self, name: str, model: Transformer, lineage: tuple[str, ...]) -> Callable[[], ServedIdentity]:
        def work() -> ServedIdentity:
            checkpoint, tokenizer = self._base.checkpoint, self._base.tokenizer
            tree = weight_tree(model, checkpoint)
            identity = model_identity(model, tokenizer, checkpoint, name, tree, files=False, lineage=lineage)
            return ServedIdentity(
                identity, exec_profile(model, self._kernels), WeightTree(tree.parts, notes=tree.notes)
            )

        return work

    async def _task(
        self, variant: str, model: Transformer, work: Callable[[], ServedIdentity]
    ) -> ServedIdentity:
        """An adapter that was read again is another model under the same name."""
        kept = self._made.get(variant)
        if kept is None or kept[0]() is not model or _failed(kept[1]):
            kept = (weakref.ref(model), asyncio.ensure_future(asyncio.to_thread(work)))
            self._made[variant] = kept
        return await asyncio.shield(kept[1])


def _failed(task: asyncio.Task[ServedIdentity]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
