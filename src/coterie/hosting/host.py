"""What one server has: its settings and counters, and the models that requests find by name."""

from __future__ import annotations

import json
import time

from coterie.hosting.errors import ApiError
from coterie.hosting.preparation import Preparations
from coterie.hosting.service import Service
from coterie.hosting.state_store import StateStore


class Host:
    """The services of one server. The first is the one of requests that name no model."""

    def __init__(self, *services: Service) -> None:
        self.services = services
        self.settings = services[0].settings
        self.metrics = services[0].metrics
        slots, queue = self.settings.slots, self.settings.max_queue
        self.preparations = Preparations(max(8, 4 * slots if queue is None else queue))
        self.started = int(time.time())
        self.draining = False
        self.state = None if not self.settings.store else StateStore.of(self.settings)
        self.num_open = 0  # requests whose answer is not yet written to its end

    @property
    def default(self) -> Service:
        """The service of requests that name no model."""
        return self.services[0]

    @property
    def refusing(self) -> bool:
        """Whether no service takes new requests."""
        return all(service.thread.refusing for service in self.services)

    async def find(self, name: str | None) -> tuple[Service, str]:
        """The service and the variant ("": the base) that a model's name selects. Errors: `ApiError` 404."""
        if name is None:
            return self.default, ""
        for service in self.services:
            variant = service.variant_of(name)
            if variant is not None:
                return service, variant
        found = "GET /v1/models lists them, --alias gives further names"
        message = f"the model {json.dumps(name[:80])} does not exist here; {found}"
        raise ApiError(404, message, "model_not_found", "/model")

    def start(self) -> None:
        """Start the engines' threads; a second call does nothing."""
        for service in self.services:
            service.start()

    def stop(self) -> None:
        """End the threads; unfinished calls receive an error."""
        for service in self.services:
            service.stop()
        self.preparations.close()
        if self.state is not None:
            self.state.close()

    def refuse(self) -> None:
        """Take no new requests."""
        for service in self.services:
            service.thread.refusing = True

    def abort(self, error: ApiError) -> None:
        """Fail all current and future waiters with `error`. Call it in the event loop."""
        for service in self.services:
            service.thread.abort(error)
