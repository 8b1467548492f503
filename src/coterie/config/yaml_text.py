"""The one reader of YAML text: plain values only, with limits on size, depth, references and repeated keys.

`yaml.safe_load` alone recurses once per level, takes a repeated key's last value without a word, lets a few
lines of references stand for billions of values, and ends in errors of other types for odd dates and numbers.
"""

from __future__ import annotations

from typing import Any

import yaml

SIZE = 256 * 1024  # bytes: settings are small, and PyYAML reads about as much in a second
DEPTH = 50
NODES = 100_000  # values, each reference counted as often as it is used
_NUMBER = 64  # characters: "1:1:1:..." is a number to the base of 60, whose reading takes quadratic time


class YamlError(ValueError):
    """YAML text that cannot be used; the message completes a sentence: FILE "is not valid YAML"."""


class _Loader(yaml.SafeLoader):
    """Builds plain values from text within the limits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # nodes below each finished node, by its identity

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        refers = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > DEPTH:
            raise YamlError(f"is nested deeper than {DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and not refers:
            self._sizes[id(node)] = self._measured(node)
        return node

    def _measured(self, node: yaml.Node) -> int:
        """The nodes that `node` stands for. A node that refers to itself is unknown inside itself."""
        if isinstance(node, yaml.ScalarNode):
            if node.tag.endswith((":int", ":float")) and len(node.value) > _NUMBER:
                raise YamlError(f"holds a number of {len(node.value)} characters{_place(node)}")
            return 1
        inner = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            inner = [part for pair in node.value for part in pair]
        if any(id(part) not in self._sizes for part in inner):
            raise YamlError(f"refers to a value inside itself{_place(node)}")
        total = 1 + sum(self._sizes[id(part)] for part in inner)
        if total > NODES:
            raise YamlError(f"stands for more than {NODES:,} values")
        return total


def parse_yaml(text: bytes | str) -> Any:
    """The value that YAML text holds. Errors: `YamlError` for text beyond the limits, or not YAML."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > SIZE:
        raise YamlError(f"holds more than the {SIZE:,} bytes that are read")
    try:
        return _load(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise YamlError(f"is not UTF-8 text (byte {error.start:,})") from None
    except yaml.YAMLError as error:
        raise YamlError(f"is not valid YAML ({' '.join(str(error).split())[:300]})") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, YamlError):
            raise
        # PyYAML's constructors give these for a date such as 2001-99-99 and for keys that are lists.
        raise YamlError(f"is not valid YAML ({' '.join(str(error).split())[:160]})") from None


def _load(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise YamlError(f"has a key that is not a single value{_place(key)}")
        if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
            raise YamlError(f"has the key '{key.value[:60]}' twice{_place(key)}")
        seen.add(key.value)


def _place(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"
