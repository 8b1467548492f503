"""What one server has: its settings, counters and keys, and the models that requests find by name.

Models may be loaded when a request first names them. Where memory is limited, the model that was used least
recently makes room, once no request uses it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from coterie.config import ConfigError
from coterie.hosting.cards import ModelCard
from coterie.hosting.errors import ApiError, draining
from coterie.hosting.keys import HOLDER, KeyRing
from coterie.hosting.metrics import Metrics
from coterie.hosting.preparation import Preparations
from coterie.hosting.service import Service
from coterie.hosting.settings import ServeSettings
from coterie.hosting.state_store import StateStore

log = logging.getLogger("coterie.serve")
_LEASES = "coterie.leases"  # in a request's scope: the models that it uses


@dataclass
class Offer:
    """A model that a server can load. `num_bytes`: what it takes in memory, prefixes included.

    `load` makes its service; `adapters`: name -> directory, served with it.
    """

    card: ModelCard
    num_bytes: int
    load: Callable[[], Service]
    adapters: dict[str, Path] = field(default_factory=dict)


@dataclass
class HostedModel:
    """An offered model and what is known of it now. Belongs to the event loop, once the server runs."""

    offer: Offer
    service: Service | None = None
    loading: asyncio.Task[Service] | None = None
    num_users: int = 0
    used: float = 0.0
    num_cancelled: int = 0  # by services that were unloaded

    @property
    def card(self) -> ModelCard:
        """What is known of the model."""
        return self.offer.card if self.service is None else self.service.card

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are served with it."""
        return tuple(self.offer.adapters) if self.service is None else self.service.adapters

    def variant_of(self, name: str) -> str | None:
        """The variant that a name selects ("": the base); None for a name of another model."""
        return self.card.variant_of(name, self.adapters)


class Host:
    """The models of one server. The first is the one of requests that name no model."""

    def __init__(
        self,
        places: Sequence[HostedModel],
        settings: ServeSettings,
        metrics: Metrics,
        memory: int | None = None,
    ) -> None:
        self.places = tuple(places)
        self.settings, self.metrics, self.memory = settings, metrics, memory
        slots, queue = settings.slots, settings.max_queue
        self.preparations = Preparations(max(8, 4 * slots if queue is None else queue))
        self.keys = KeyRing(settings.keys, settings.api_key, metrics)
        self.draining = False
        self.state = None if not self.settings.store else StateStore.of(self.settings)
        self.num_open = 0  # requests whose answer is not yet written to its end
        self.on_failure: Callable[[], None] = lambda: None
        self._room = asyncio.Lock()
        self._released = asyncio.Event()

    @classmethod
    def of(cls, *services: Service) -> Host:
        """A host of models that are loaded already and stay."""
        places = [HostedModel(Offer(one.card, one.num_bytes, partial(_itself, one)), one) for one in services]
        return cls(places, services[0].settings, services[0].metrics)

    @property
    def services(self) -> tuple[Service, ...]:
        """The models that are loaded."""
        return tuple(place.service for place in self.places if place.service is not None)

    @property
    def default(self) -> Service:
        """The first model. Errors: `ApiError` 503 while it is not loaded."""
        first = self.places[0].service
        if first is None:
            raise ApiError(503, "the server's first model is not loaded; name a model", "model_not_loaded")
        return first

    @property
    def refusing(self) -> bool:
        """Whether no new requests are taken."""
        loaded = self.services
        return self.draining or (bool(loaded) and all(service.thread.refusing for service in loaded))

    @property
    def num_cancelled(self) -> int:
        """Requests dropped because their client left."""
        running = sum(service.thread.num_cancelled for service in self.services)
        return running + sum(place.num_cancelled for place in self.places)

    async def find(self, name: str | None, scope: MutableMapping[str, Any]) -> tuple[Service, str]:
        """The service and the variant ("": the base) that a model's name selects, loaded if it was not.

        The model stays until `release(scope)`.
        Errors: `ApiError` 404 for an unknown name, 403 for one that the key may not use, 503 without room.
        """
        place, variant = self._place_of(name)
        holder = HOLDER.get()
        if holder is not None:
            # A key for a model may use its adapters; a key for an adapter may use nothing else.
            holder.check_model(name, place.card.all_names([variant] if variant else []))
        place.num_users += 1
        scope.setdefault(_LEASES, []).append(place)
        place.used = time.monotonic()
        service = place.service
        if service is None:
            service = await self._loaded(place)
        return service, variant

    def serves(self, name: str) -> bool:
        """Whether requests may name this model."""
        return any(place.variant_of(name) is not None for place in self.places)

    async def add_adapter(self, model: str, name: str, path: Path) -> None:
        """Serve an adapter with a model, now or once it is loaded. Errors: as `Service.add_adapter`."""
        place, _ = self._place_of(model)
        place.offer.adapters = {**place.offer.adapters, name: path}
        service = place.service
        if service is not None:
            await service.thread.run(partial(service.add_adapter, name, path))

    async def remove_adapter(self, model: str, name: str) -> None:
        """Serve an adapter no longer; running replies finish with it."""
        place, _ = self._place_of(model)
        place.offer.adapters = {key: path for key, path in place.offer.adapters.items() if key != name}
        service = place.service
        if service is not None:
            await service.thread.run(partial(service.remove_adapter, name))

    def release(self, scope: MutableMapping[str, Any]) -> None:
        """End a request's use of its models."""
        for place in scope.pop(_LEASES, ()):
            place.num_users -= 1
            place.used = time.monotonic()
            self._released.set()

    def start(self) -> None:
        """Start the engines' threads; a second call does nothing."""
        for service in self.services:
            self._start(service)

    def stop(self) -> None:
        """End the threads; unfinished calls receive an error."""
        for place in self.places:
            if place.loading is not None:
                place.loading.cancel()
        for service in self.services:
            service.stop()
        self.preparations.close()
        if self.state is not None:
            self.state.close()

    def refuse(self) -> None:
        """Take no new requests, and begin no further load. Call it in the event loop."""
        self.draining = True
        self._released.set()
        for service in self.services:
            service.thread.refusing = True

    def abort(self, error: ApiError) -> None:
        """Fail all current and future waiters with `error`. Call it in the event loop."""
        for service in self.services:
            service.thread.abort(error)
        for place in self.places:
            if place.loading is not None:
                place.loading.cancel()

    def _place_of(self, name: str | None) -> tuple[HostedModel, str]:
        if name is None:
            return self.places[0], ""
        for place in self.places:
            variant = place.variant_of(name)
            if variant is not None:
                return place, variant
        found = "GET /v1/models lists them, --alias gives further names"
        message = f"the model {json.dumps(name[:80])} does not exist here; {found}"
        raise ApiError(404, message, "model_not_found", "/model")

    async def _loaded(self, place: HostedModel) -> Service:
        """The service of a model that is not loaded; requests that come meanwhile wait for the same load."""
        if place.loading is None or place.loading.done():
            place.loading = asyncio.ensure_future(self._load(place))
            place.loading.add_done_callback(lambda done: _forget(place, done))
        loading = place.loading
        try:
            async with asyncio.timeout(self.settings.request_timeout):
                return await asyncio.shield(loading)
        except asyncio.CancelledError:
            if loading.cancelled():  # the server ends
                raise draining() from None
            raise
        except TimeoutError:
            raise ApiError(
                503, f"the model {place.card.name} is still being loaded; try again later", "model_loading",
                retry_after=10,
            ) from None  # fmt: skip

    async def _load(self, place: HostedModel) -> Service:
        async with self._room:  # one at a time: two loads would each count on the same room
            await self._make_room(place)
            log.info("model %s: loading", place.card.name)
            begun = time.monotonic()
            try:
                service = await asyncio.to_thread(place.offer.load)
                for name, path in place.offer.adapters.items():
                    await asyncio.to_thread(service.add_adapter, name, path)
            except Exception as error:
                log.error("model %s: could not be loaded: %s", place.card.name, error)
                raise ApiError(
                    503, f"the model {place.card.name} could not be loaded; the server's log says why",
                    "model_load_failed",
                ) from None  # fmt: skip
            self._start(service)
            place.service, place.offer.num_bytes = service, service.num_bytes
            self.metrics.add("coterie_model_loads_total", model=place.card.name)
            log.info("model %s: loaded in %.1f s", place.card.name, time.monotonic() - begun)
            return service

    async def _make_room(self, place: HostedModel) -> None:
        """Unload the models that were used least recently until this one fits.

        Errors: `ApiError` 503 when the server ends, or when nobody waits for the model any longer.
        """
        while True:
            if self.draining:
                raise draining()
            if not place.num_users:
                raise ApiError(503, f"nobody waits for the model {place.card.name}", "model_loading")
            if self.memory is None:
                return
            loaded = [one for one in self.places if one.service is not None]
            if sum(one.offer.num_bytes for one in loaded) + place.offer.num_bytes <= self.memory:
                return
            idle = [one for one in loaded if not one.num_users]
            if idle:
                await self._unload(min(idle, key=lambda one: one.used))
            else:
                self._released.clear()
                await self._released.wait()

    async def _unload(self, place: HostedModel) -> None:
        service, place.service = place.service, None
        if service is None:
            return
        place.offer.adapters = dict(service.adapter_paths)
        await asyncio.to_thread(service.stop)
        place.num_cancelled += service.thread.num_cancelled
        self.metrics.add("coterie_model_unloads_total", model=place.card.name)
        log.info("model %s: unloaded, to make room", place.card.name)
        del service
        gc.collect()  # the engine and its thread refer to each other

    def _start(self, service: Service) -> None:
        service.thread.on_failure = self.on_failure
        service.start()


def check_memory(offers: Sequence[Offer], memory: int | None) -> None:
    """Refuse a model that alone is larger than the memory. Errors: `ConfigError`."""
    for offer in offers:
        if memory is not None and offer.num_bytes > memory:
            raise ConfigError(
                f"serve: {offer.card.name} needs {offer.num_bytes / 1e9:.1f} GB, more than --memory "
                f"{memory / 1e9:.1f} GB; give more, or another --dtype"
            )


def _itself(service: Service) -> Service:
    return service


def _forget(place: HostedModel, done: asyncio.Task[Service]) -> None:
    if place.loading is done:
        place.loading = None
    if not done.cancelled():
        done.exception()  # every waiter may have left
