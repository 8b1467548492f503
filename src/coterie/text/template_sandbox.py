"""Runs chat templates: all that Hugging Face templates need, within limits that hold in any thread.

A template comes with a model, so it is a stranger's program. It sees only plain data and cannot change it. It
fails with one line when it works too long (`MAX_WORK`) or makes too much text (`MAX_TEXT`). The limits are
enforced by counting inside the template: every turn of a loop and every call of a macro is one unit of work,
and every text or list costs by its size. Operations that make something large out of something small are
measured before they run. Nothing is computed at compile time, so constants cannot evade the limits.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import time
from collections.abc import Callable, ItemsView, KeysView, Mapping, Sized, ValuesView
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from coterie.config.errors import DataError

MAX_TEXT = 8_000_000  # characters of any one text, list contents included
MAX_WORK = 2_000_000  # units: one for each step, one for every 16 characters made
MAX_SECONDS = 10.0  # a backstop for operations that are slow but count little
MAX_SOURCE = 400_000  # characters of the template itself
_MAX_WIDTH = 1000  # of padding, indentation and formatted numbers
_MAX_BITS = 4096  # of whole numbers
_CHARS_PER_UNIT = 16
_FAILURES = (
    jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError,
    MemoryError, SyntaxError, AssertionError, NotImplementedError,
)  # fmt: skip


def run(template: str, names: Mapping[str, Any]) -> str:
    """The text that a template makes of `names`. Errors: `DataError`, one line, for any failure in it."""
    try:
        compiled = _compiled(template)
        mark = _METER.set(WorkMeter())
        try:
            return _gather(compiled, dict(names))
        finally:
            _METER.reset(mark)
    except _FAILURES as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        origin = getattr(template, "origin", "")
        raise DataError(f"chat template: {reason}{f' (in {origin})' if origin else ''}") from None


class WorkMeter:
    """Counts what one rendering uses: units of work, and the weight of every container it builds."""

    def __init__(self) -> None:
        self.work = 0
        self._end = time.monotonic() + MAX_SECONDS
        self._weights: dict[int, tuple[Any, int]] = {}  # keeps the object, so its id is not reused

    def spend(self, units: int = 1) -> None:
        """Count work. Errors: `TemplateError` beyond `MAX_WORK` or `MAX_SECONDS`."""
        self.work += units
        if self.work > MAX_WORK:
            raise jinja2.TemplateError(f"runs too long (more than {MAX_WORK:,} steps)")
        if time.monotonic() > self._end:
            raise jinja2.TemplateError(f"runs too long (more than {MAX_SECONDS:.0f} seconds)")

    def made(self, value: Any) -> Any:
        """Account for a new value and return it. Errors: `TemplateError` for one that is too large."""
        if isinstance(value, str):
            fits(len(value))
            self.spend(1 + len(value) // _CHARS_PER_UNIT)
        elif isinstance(value, list | tuple | dict):
            self.weigh(value)
        elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise jinja2.TemplateError(f"makes a number of more than {_MAX_BITS:,} bits")
        return value

    def weigh(self, value: Any) -> int:
        """About how many characters `value` has when written out, repeated parts included.

        Errors: `TemplateError` beyond `MAX_TEXT`, and for a namespace inside another value.
        """
        if isinstance(value, str):
            return len(value) + 2
        if isinstance(value, int):
            return 8 + value.bit_length() // 3
        if isinstance(value, Namespace):
            raise jinja2.TemplateError("puts a namespace into a text, list or namespace")
        if isinstance(value, range):
            return 8 * len(value) + 2
        if not isinstance(value, list | tuple | Mapping | KeysView | ValuesView | ItemsView):
            return 8
        known = self._weights.get(id(value))
        if known is not None:
            return known[1]
        self.spend(1 + len(value))
        if isinstance(value, Mapping):
            total = 2 + sum(2 + self.weigh(key) + self.weigh(part) for key, part in value.items())
        else:
            total = 2 + sum(2 + self.weigh(part) for part in value)
        fits(total)
        self._weights[id(value)] = (value, total)
        return total


_METER: ContextVar[WorkMeter] = ContextVar("meter")


def fits(size: int) -> None:
    """Errors: `TemplateError` when a text of `size` characters would be too long."""
    if size > MAX_TEXT:
        raise jinja2.TemplateError(f"makes too much text (more than {MAX_TEXT:,} characters)")


def _gather(template: jinja2.Template, names: dict[str, Any]) -> str:
    pieces: list[str] = []
    size = 0
    for piece in template.root_render_func(template.new_context(names)):
        size += len(piece)
        fits(size)
        pieces.append(piece)
    return "".join(pieces)


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> jinja2.Template:
    if len(template) > MAX_SOURCE:
        raise jinja2.TemplateError(f"is longer than {MAX_SOURCE:,} characters")
    return environment().from_string(template)


@functools.lru_cache(maxsize=1)
def environment() -> _Environment:
    """The environment that transformers uses (blocks trimmed, plain JSON), with every growth measured."""
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        finalize=_finalize,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    for name in (*_NO_FILTERS, *_NO_GLOBALS):
        environment.filters.pop(name, None)
        environment.globals.pop(name, None)
    environment.filters["tojson"] = _to_json
    environment.filters = {name: _metered(name, function) for name, function in environment.filters.items()}
    tests: dict[str, Any] = dict(environment.tests)
    environment.tests = {name: _metered("", function) for name, function in tests.items()}
    environment.filters |= {"_step": _step, "_concat": _concat, "_built": _built}
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Counting().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        # A template has no use for bytes and translation tables, and could grow text through them.
        return attr not in _NO_ATTRIBUTES and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter = _METER.get()
        _foresee_operator(meter, operator, left, right)
        return meter.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        meter = _METER.get()
        meter.spend()
        if __obj is Namespace:
            for value in kwargs.values():
                meter.weigh(value)
        args = _foresee_method(meter, __obj, args, kwargs)
        return meter.made(super().call(__context, __obj, *args, **kwargs))


class _Generation(Extension):
    """Reads `{% generation %}`, which some templates put around replies, as a plain block."""

    tags = {"generation"}  # noqa: RUF012  # declared so by jinja2

    def parse(self, parser: Any) -> nodes.Node:
        number = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=number)


class _Counting(NodeTransformer):
    """Inserts the counting into a parsed template."""

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        # A constant passes through `_finalize` like every other value.
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_concat")

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self._count(node)
        if node.test is not None:
            node.test = nodes.And(
                _filtered(nodes.Const(True), "_step", node.lineno), node.test, lineno=node.lineno
            )
        return node

    def _count(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        step = _filtered(nodes.Const(True), "_step", node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        return node  # type: ignore[no-any-return]  # nodes have no common type for a body

    visit_Macro = visit_CallBlock = _count

    def _build(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        plain = all(isinstance(part, nodes.Const) for part in node.items)
        if plain or getattr(node, "ctx", "load") != "load":
            return node  # type: ignore[no-any-return]
        return _filtered(node, "_built")

    visit_List = visit_Tuple = visit_Dict = _build


def _filtered(node: nodes.Expr, name: str, number: int | None = None) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno if number is None else number)


@jinja2.pass_context
def _step(_: Context, value: Any) -> Any:
    _METER.get().spend()
    return value


@jinja2.pass_context
def _built(_: Context, value: Any) -> Any:
    return _METER.get().made(value)


@jinja2.pass_context
def _concat(_: Context, parts: list[Any]) -> str:
    meter = _METER.get()
    fits(sum(map(meter.weigh, parts)))
    return str(meter.made("".join(map(str, parts))))


@jinja2.pass_context
def _finalize(_: Context, value: Any) -> str:
    meter = _METER.get()
    if not isinstance(value, str):
        meter.weigh(value)
        value = str(value)
    return str(meter.made(value))


def _refuse(message: Any = "") -> None:
    raise jinja2.TemplateError(str(message)[:300])


def _now(form: str) -> str:
    if re.search(r"\d{3}", form) or len(form) > _MAX_WIDTH:
        raise jinja2.TemplateError("strftime_now: the format is too wide")
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    _narrow(indent)
    for part in separators or ():
        _narrow(part)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


_NO_FILTERS = (
    "filesizeformat", "forceescape", "pprint", "random", "striptags", "urlencode", "urlize", "wordwrap",
    "xmlattr",
)  # fmt: skip
_NO_GLOBALS = ("lipsum",)
_NO_ATTRIBUTES = frozenset({"encode", "translate", "maketrans", "to_bytes", "from_bytes", "fromhex"})
_TO_TEXT = frozenset(
    "capitalize center e escape format indent join lower replace safe string title tojson trim truncate "
    "upper wordcount".split()
)


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that counts its work, and is measured beforehand where its result could grow."""
    skip = 1 if getattr(function, "jinja_pass_arg", None) is not None else 0

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        meter = _METER.get()
        meter.spend()
        given = list(args[skip:])
        if name in ("join", "sum") and given:
            given[0] = list(given[0])
        if name in _TO_TEXT:
            for value in (*given, *kwargs.values()):
                meter.weigh(value)
        _foresee_filter(meter, name, given, kwargs)
        return meter.made(function(*args[:skip], *given, **kwargs))

    return call


def _foresee_filter(meter: WorkMeter, name: str, args: list[Any], kwargs: Mapping[str, Any]) -> None:
    more = [*args[1:], *kwargs.values()]
    if name in ("center", "indent", "truncate", "batch", "slice", "round"):
        for value in more:
            _narrow(value)
    if name == "indent":
        fits((len(str(args[0])) + 1) * (1 + max((len(str(value)) for value in more), default=0)))
    elif name == "join":
        separator = str(more[0]) if more else ""
        fits(sum(map(meter.weigh, args[0])) + len(separator) * len(args[0]))
    elif name == "replace" and len(more) >= 2:
        _foresee_replace(str(args[0]), str(more[0]), str(more[1]))
    elif name == "format":
        _foresee_format(meter, "%", str(args[0]), more)
    elif name == "sum" and not all(isinstance(part, int | float | Mapping) for part in args[0]):
        raise jinja2.TemplateError("sum: only numbers can be added up")


def _foresee_method(
    meter: WorkMeter, method: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Measure a call of a text's method; return its arguments, iterators turned into lists."""
    owner = getattr(getattr(method, "__wrapped__", method), "__self__", None)
    name = getattr(method, "__name__", "")
    if not isinstance(owner, str) or not (args or kwargs):
        return args
    if name in ("format", "format_map"):
        _foresee_format(meter, "{", owner, [*args, *kwargs.values()])
    elif name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        for value in (*args, *kwargs.values()):
            _narrow(value)
        fits(len(owner) * (_MAX_WIDTH if name == "expandtabs" and "\t" in owner else 1))
    elif name == "replace" and len(args) >= 2:
        _foresee_replace(owner, str(args[0]), str(args[1]))
    elif name == "join" and args:
        parts = list(args[0])
        fits(len(owner) * len(parts))  # first, because it is cheap: each of a million parts is weighed below
        fits(sum(map(meter.weigh, parts)) + len(owner) * len(parts))
        return (parts, *args[1:])
    return args


def _foresee_operator(meter: WorkMeter, operator: str, left: Any, right: Any) -> None:
    meter.spend()
    if operator == "%" and isinstance(left, str):
        _foresee_format(meter, "%", left, [right])
    elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
        fits(len(left) + len(right))
    elif operator == "*":
        for many, count in ((left, right), (right, left)):
            if isinstance(many, str | list | tuple) and isinstance(count, int):
                fits(meter.weigh(many) * max(0, count))
    if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MAX_BITS:
            raise jinja2.TemplateError(f"makes a number of more than {_MAX_BITS:,} bits")


def _foresee_replace(text: str, old: str, new: str) -> None:
    fits(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def _foresee_format(meter: WorkMeter, mark: str, form: str, values: list[Any]) -> None:
    """Bound what `%` and `str.format` make: they repeat and pad values, and a width may be a value."""
    starred = r"%[^A-Za-z%]*\*" if mark == "%" else r":[^{}]*\{"
    if re.search(r"\d{4}", form) or re.search(starred, form):
        raise jinja2.TemplateError("a format pads with more than 1,000 characters")
    fits(
        len(form) + form.count(mark) * (_MAX_WIDTH + max((meter.weigh(value) for value in values), default=0))
    )


def _narrow(value: Any) -> None:
    size = value if isinstance(value, int) else len(value) if isinstance(value, str) else 0
    if size > _MAX_WIDTH:
        raise jinja2.TemplateError(f"pads with more than {_MAX_WIDTH:,} characters")
