"""A Lark grammar as one pattern, where its rules do not call themselves.

Inside a JSON string only a pattern can be enforced, because its characters may be written as escapes.
"""

from __future__ import annotations

import json
import re

MAX_PATTERN = 990  # characters; a schema's patterns have at most 1000
_RULE = re.compile(r"[?!]?([A-Za-z_]\w*)(?:\.-?\d+)?\s*:(.*)", re.DOTALL)
_TOKEN = re.compile(
    r'\s+|//[^\n]*|(?P<range>"(?:\\.|[^"\\])"\.\."(?:\\.|[^"\\])")|(?P<text>"(?:\\.|[^"\\])*"i?)'
    r"|(?P<pattern>/(?:\\.|[^/\\\n])+/[ims]*)|(?P<alias>->\s*\w+)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<times>~\s*\d+(?:\s*\.\.\s*\d+)?)|(?P<mark>[|()\[\]?*+])",
    re.DOTALL,
)
# Terminals of Lark's library `common`.
_COMMON = {
    "LF": r"\n", "CR": r"\r", "NEWLINE": r"(?:\r?\n)+", "WS": r"[ \t\f\r\n]+", "WS_INLINE": r"[ \t]+",
    "DIGIT": "[0-9]", "INT": "[0-9]+", "SIGNED_INT": "[+-]?[0-9]+", "LETTER": "[A-Za-z]", "WORD": "[A-Za-z]+",
    "CNAME": "[A-Za-z_][A-Za-z0-9_]*", "LCASE_LETTER": "[a-z]", "UCASE_LETTER": "[A-Z]",
    "ESCAPED_STRING": r'"(?:[^"\\\n]|\\.)*"',
}  # fmt: skip


def pattern_of(grammar: str) -> str | None:
    """The pattern that matches what the rule `start` matches; None for a grammar that is not read here."""
    rules = _rules(grammar)
    if rules is None:
        return None
    try:
        found = _Rules(rules).pattern("start")
    except (ValueError, RecursionError):
        return None
    return found if len(found) <= MAX_PATTERN else None


def _rules(grammar: str) -> dict[str, str] | None:
    """The definitions by name; those of imported terminals are patterns."""
    rules: dict[str, str] = {}
    last = ""
    for line in grammar.splitlines():
        bare = line.strip()
        imported = re.fullmatch(r"%import\s+common\.(\w+)(?:\s*->\s*(\w+))?\s*", bare)
        defined = _RULE.fullmatch(bare)
        if not bare or bare.startswith("//"):
            continue
        if imported and imported[1] in _COMMON:
            rules[imported[2] or imported[1]] = f"/{_COMMON[imported[1]]}/"
        elif bare.startswith("%"):
            return None
        elif defined:
            last = defined[1]
            rules[last] = defined[2]
        elif last and bare.startswith("|"):
            rules[last] += " " + bare
        else:
            return None
    return rules


class _Rules:
    """Replaces names by what they stand for. Errors: `ValueError` for what no pattern can say."""

    def __init__(self, rules: dict[str, str]) -> None:
        self._rules, self._done = rules, dict[str, str]()
        self._open: list[str] = []

    def pattern(self, name: str) -> str:
        """The pattern of a rule."""
        if name not in self._done:
            if name in self._open or name not in self._rules:
                raise ValueError(name)
            self._open.append(name)
            self._done[name] = self._expanded(self._rules[name])
            self._open.pop()
        return self._done[name]

    def _expanded(self, text: str) -> str:
        at, written, size = 0, list[str](), 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                raise ValueError(text[at:])
            at = token.end()
            written.append(self._written(token))
            size += len(written[-1])
            if size > 4 * MAX_PATTERN:
                raise ValueError("too long")
        return f"(?:{''.join(written)})"

    def _written(self, token: re.Match[str]) -> str:
        kind, text = token.lastgroup, token[0]
        if kind == "name":
            return self.pattern(text)
        if kind == "text":
            folded = text.endswith("i")
            plain = re.escape(json.loads(text.removesuffix("i"))).replace("\n", "n")
            return f"(?{'i' if folded else ''}:{plain})"
        if kind == "range":
            first, last = (re.escape(json.loads(end)) for end in re.split(r"(?<=.)\.\.(?=\")", text))
            return f"[{first}-{last}]"
        if kind == "pattern":
            body, _, flags = text[1:].rpartition("/")
            return f"(?{flags}:{body})"
        if kind == "times":
            least, _, most = text[1:].replace(" ", "").partition("..")
            return f"{{{least},{most}}}" if most else f"{{{least}}}"
        return {"[": "(?:", "]": ")?", "(": "(?:"}.get(text, text) if kind == "mark" else ""
