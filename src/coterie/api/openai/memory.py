"""What a Responses request continues, and where its response is kept."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from coterie.hosting.errors import ApiError, invalid, unsupported
from coterie.hosting.state_store import Entry, MissingEntry, StateError, StateFile, StateStore

T = TypeVar("T")
Item = dict[str, Any]
# Fields that say what an item is, not what it says.
_LABELS = frozenset({"type", "id", "status", "role", "phase"})
_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


class ItemMemory:
    """The items of one request, those that it continues first.

    `items`: (index, item): the place in the request's `input`, below 0 for stored items. `origin`: the
    pointer that messages give for a stored item. `keeps`: whether the response is kept.
    """

    def __init__(self, store: StateStore | None, owner: str, asked: bool | None = None) -> None:
        self.keeps = store is not None and asked is not False
        self.items: list[tuple[int, Item]] = []
        self.origin = "/previous_response_id"
        self.previous: str | None = None
        self.conversation: str | None = None
        self._store, self._owner = store, owner
        self._upto: int | None = None

    async def load(
        self, given: str | Sequence[Mapping[str, Any]], previous: str | None, conversation: str | None
    ) -> None:
        """Read what the request continues and the items that its input refers to.

        Errors: `ApiError` 400, 404 for what is not stored, 500 when the state cannot be read.
        """
        before = await self._before(previous or None, conversation)
        items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
        whole = await self._resolved(items)
        self.items = [(place - len(before), item) for place, item in enumerate(before + whole)]

    async def keep(self, response: Mapping[str, Any], output: Sequence[Item]) -> list[str]:
        """Keep a finished response; the names of what could not be kept."""
        store, owner = self._store, self._owner
        new = self.new_items()
        lost: list[str] = []
        if store is None:
            return lost
        if self.keeps:
            parent = self.previous or self.conversation or ""
            entry = Entry(response["id"], "response", response, [*new, *output], parent, self._upto)
            if not await self._done(store, lambda file: file.put(owner, entry)):
                self.keeps = False
                lost.append("store")
        if (id := self.conversation) is not None:
            if not await self._done(store, lambda file: file.append(owner, id, [*new, *output])):
                lost.append("conversation")
        return lost

    def new_items(self) -> list[Item]:
        """The items of the input as they are kept: each has an id."""
        return [_with_id(item) for index, item in self.items if index >= 0]

    @staticmethod
    async def _done(store: StateStore, work: Callable[[StateFile], None]) -> bool:
        try:
            await store.do(work)
        except (StateError, MissingEntry):  # it may have been deleted meanwhile
            return False
        return True

    async def _before(self, previous: str | None, conversation: str | None) -> list[Item]:
        if previous is None and conversation is None:
            return []
        if previous is not None and conversation is not None:
            raise invalid(
                "/conversation: cannot go with previous_response_id; send one of them", "/conversation"
            )
        kind, id = ("response", previous) if conversation is None else ("conversation", conversation)
        pointer = "/previous_response_id" if conversation is None else "/conversation"
        if self._store is None or id is None:
            raise unsupported("a stored conversation (send all items in 'input')", pointer)
        self.origin, self.previous, self.conversation = pointer, previous, conversation
        owner = self._owner
        try:
            found = await look(self._store, lambda file: file.history(owner, id, kind))
        except MissingEntry as missing:
            raise not_found(kind, missing.id, pointer) from None
        items, end = found
        self._upto = end if conversation is not None else None
        return items

    async def _resolved(self, items: list[Any]) -> list[Item]:
        """The items of the input; what refers to a stored item is that item."""
        wanted = [_reference(item, index) for index, item in enumerate(items)]
        ids = [id for id, _ in wanted if id is not None]
        owner, found = self._owner, {}
        if ids and self._store is not None:
            found = await look(self._store, lambda file: file.find(owner, ids))
        whole = []
        for index, (item, (id, needed)) in enumerate(zip(items, wanted, strict=True)):
            if needed and id not in found:
                raise not_found("item", str(id), f"/input/{index}")
            whole.append(item if id is None else found.get(id, item))
        return whole

    def placed(self, error: ApiError) -> ApiError:
        """The same error; instead of the place of a stored item it has that of the id that brought it."""
        return error.moved(lambda text: re.sub(r"/input/-\d+[\w/]*", self.origin, text))


async def look(store: StateStore, work: Callable[[StateFile], T]) -> T:
    """The result of `work`. Errors: `ApiError` 500 when the state cannot be read; those of `work`."""
    try:
        return await store.do(work)
    except StateError:
        raise ApiError(
            500, "what is stored cannot be read or written; the server's log says why", "state_failed"
        ) from None


def not_found(kind: str, id: str, pointer: str | None = None) -> ApiError:
    """The error in OpenAI's words: 404, or 400 for a response that a request continues.

    `kind`: `response`, `conversation` or `item`.
    """
    if kind == "response" and id.startswith("conv_"):  # the response continued it
        kind = "conversation"
    named = f"with id '{id[:100]}' not found."
    if kind == "item":
        hint = (
            "Items are not persisted when `store` is set to false. Try again with `store` set to true, "
            "or remove this item from your input."
        )
        return ApiError(404, f"Item {named} {hint}", "item_not_found", pointer, "invalid_request_error")
    previous = kind == "response" and pointer is not None
    code = "previous_response_not_found" if previous else f"{kind}_not_found"
    name = "Previous response" if previous else kind.capitalize()
    return ApiError(400 if previous else 404, f"{name} {named}", code, pointer, "invalid_request_error")


def _with_id(item: Item) -> Item:
    """The item with an id, a new one if it has none."""
    if isinstance(item.get("id"), str) and item["id"]:
        return item
    return {**item, "id": new_id(_PREFIXES.get(str(item.get("type") or "message"), "item"))}


def new_id(prefix: str) -> str:
    """A new id of an item, a response or a conversation."""
    return f"{prefix}_{secrets.token_hex(16)}"


def _reference(item: Item, index: int) -> tuple[str | None, bool]:
    """The id of the stored item that an item stands for, if it does, and whether it says nothing itself.

    `item_reference`, an item with nothing but its id, and reasoning without a text refer to what was stored.
    """
    said = {key for key, value in item.items() if value is not None} - _LABELS
    needed = item.get("type") == "item_reference" or (not said and "id" in item)
    id = item.get("id")
    if needed and not (isinstance(id, str) and id):
        raise invalid(f"/input/{index}/id: the id of a stored item was expected", f"/input/{index}/id")
    silent = item.get("type") == "reasoning" and not item.get("content") and not item.get("summary")
    return (id if (needed or silent) and isinstance(id, str) else None), needed
