"""Benchmark numbers in prose that the report does not hold.

A number is of a benchmark where its block names one (a task of the report, or one that is widely known), or
speaks of accuracy, scores and the like. Percentages and decimals count in the whole block, small whole
numbers only in the sentence or row itself. A number that agrees with the report, rounded as it is printed,
may stay. Numbers in pictures are not seen.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from coterie.results.evaluation import EvalReport, TaskResult

_ANY_CASE = (
    r"mmlu(?:[ -]?pro|[ -]?redux)?|c-?mmlu|mmmu|gsm-?8k|gsm-(?:plus|symbolic)|math-?500|human-?eval\+?"
    r"|mbpp\+?|hella-?swag"
    r"|arc[ -](?:c|e|challenge|easy|agi)|truthful-?qa|wino-?grande|boolq|piqa|siqa|open-?book-?qa"
    r"|commonsense-?qa|trivia-?qa|natural questions|big-?bench|bbh|agi-?eval|c-eval|if-?eval|ifbench|gpqa"
    r"|aime|live-?code-?bench|swe-?bench|bfcl|mt-?bench|alpaca-?eval|arena-?hard|lm-?arena|chatbot arena"
    r"|longbench|simple-?qa|humanity'?s last exam|tau2?-bench|terminal-?bench|lambada|wiki-?text"
    r"|evalplus|zebra-?logic|musr|super-?glue|squad|livebench|babilong|needle in a haystack"
)
_UPPER_CASE = "MATH|DROP|RACE|ARC|GLUE|HLE|NQ|RULER|QUAC|COPA|ANLI"
_MEASURES = (
    r"accurac(?:y|ies)|accurate|pass@\d+|pass\^\d+|exact[ -]match|f1(?:[ -]score)?|win[ -]?rates?|elo"
    r"|scor(?:e|es|ed|ing)|perplexity|bits per byte|bleu|rouge|sota|state[ -]of[ -]the[ -]art|benchmarks?"
    r"|leaderboards?|percentile|outperforms?|beats|solves|solved|correct(?:ly)?|refus(?:al|es)"
)
_KNOWN = re.compile(rf"(?<!\w)(?:(?i:{_ANY_CASE})|{_UPPER_CASE})(?!\w)")
_MEASURE = re.compile(rf"(?<!\w)(?:{_MEASURES})(?!\w)", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w@.,])(?<!\w-)(?P<whole>\d+)(?P<part>[.,]\d+)?"
    r"(?P<unit>\s*(?:%|percent\b|per cent\b|percentage points?\b|points?\b|pts?\b|pp\b))?"
    r"(?![\w@]|-[a-zA-Z]|[.,]\d)"
)
# What is counted with such a word is not a score.
_COUNTED = re.compile(
    r"\s*(?:[kmbt]\b|billion|million|thousand|[kmgt]i?b\b|hours?|days?|weeks?|months?|years?|minutes?|seconds?|ms\b"
    r"|epochs?|steps?|tokens?|parameters?|layers?|experts?|gpus?|cores?|items?|seeds?|shots?|languages?"
    r"|examples?|documents?|tasks?|questions?|models?|rows?|bits?\b(?! per byte)|bytes?\b)",
    re.IGNORECASE,
)
_VERSION = re.compile(
    r"(?:version|python|torch|pytorch|apache|licen[cs]e|cc-by(?:-\w+)*|llama|qwen|gemma|mistral|phi|deepseek"
    r"|gpt|claude|olmo|granite|coterie|cuda|transformers)[ -]$",
    re.IGNORECASE,
)
_SPELLED = re.compile(
    r"\b(?:(?:twenty|thirty|forty|fifty|sixty|seventy|eighty"
    r"|ninety|(?:a |one )?hundred)(?:[ -](?:one|two|three|four|five|six|seven|eight|nine))?"
    r"\s+per ?cent)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")


@dataclass(frozen=True)
class StrayNumber:
    """A number that the report does not hold. `line`: from 1. `about`: the benchmark or word next to it."""

    line: int
    number: str
    about: str

    def __str__(self) -> str:
        return f"line {self.line} says '{self.number}' of {self.about}"


@dataclass(frozen=True)
class _Block:
    """Lines that belong together, from line `first`, under the heading `title`. `rows`: each line alone."""

    first: int
    lines: tuple[str, ...]
    title: str
    rows: bool


def stray_numbers(text: str, report: EvalReport, printed: Iterable[str] = ()) -> list[StrayNumber]:
    """The benchmark numbers of a text in Markdown or HTML that are not in the report, in order.

    `printed`: numbers that may stand anywhere, as they are written.
    """
    tasks = {task.id: task for task in report.tasks}
    names = "|".join(re.escape(name).replace("_", "[_ -]") for name in sorted(tasks, key=len, reverse=True))
    own = re.compile(rf"(?<!\w)(?:{names})(?!\w)", re.IGNORECASE) if names else None
    found: list[StrayNumber] = []
    for block in _blocks(_plain(text)):
        found += _in_block(block, tasks, own, frozenset(printed))
    return found


def _plain(text: str) -> str:
    """The text as it is read, line by line: without tags and emphasis, with the usual digits."""
    text = unicodedata.normalize("NFKC", html.unescape(text))
    text = re.sub(r"<!--|-->|</?[a-zA-Z][^<>\n]*>", " ", text)
    return re.sub(r"[*`\\\u200b\u00ad\u2060]|(?<![^\W_])_+|_+(?![^\W_])", "", text)


def _blocks(text: str) -> Iterator[_Block]:
    title, lines, first = "", list[str](), 1
    for number, line in enumerate([*text.splitlines(), ""], 1):
        heading = re.match(r"\s{0,3}#{1,6}\s+(.*)", line)
        if line.strip() and heading is None:
            first = first if lines else number
            lines.append(line)
            continue
        if lines:
            yield _Block(first, tuple(lines), title, all("|" in one for one in lines))
            lines = []
        if heading is not None:
            title = heading[1]
            yield _Block(number, (title,), "", False)


def _in_block(
    block: _Block, tasks: dict[str, TaskResult], own: re.Pattern[str] | None, printed: frozenset[str]
) -> Iterator[StrayNumber]:
    whole = " ".join((block.title, *block.lines))
    about_block = _subject(whole, own)
    if about_block is None:
        return
    header = block.lines[0] if block.rows else ""
    for start, sentence in _sentences(block):
        about = _subject(f"{header} {sentence}" if header else sentence, own)
        about = about or _subject(block.title, own)
        named = (
            _named(sentence, tasks, own)
            or _named(f"{block.title} {header}", tasks, own)
            or list(_named(whole, tasks, own) or tasks.values())
        )
        foreign = _KNOWN.search(sentence) is not None and not _named(sentence, tasks, own)
        for match, strong in _numbers(sentence):
            if not strong and about is None:
                continue
            number = match.group().strip()
            if number in printed or (not foreign and _agrees(match, named)):
                continue
            line = block.first + start + sentence.count("\n", 0, match.start())
            yield StrayNumber(line, number, about or about_block)


def _sentences(block: _Block) -> Iterator[tuple[int, str]]:
    """(lines before it, text) of every sentence of prose, and of every row of a table."""
    if block.rows:
        yield from enumerate(block.lines)
        return
    text, start = "\n".join(block.lines), 0
    for end in [*_SENTENCE.finditer(text), None]:
        stop = len(text) if end is None else end.start()
        yield text.count("\n", 0, start), text[start:stop]
        start = stop if end is None else end.end()


def _subject(text: str, own: re.Pattern[str] | None) -> str | None:
    """The benchmark that a text names, or its first word about measures."""
    for pattern in (own, _KNOWN, _MEASURE):
        match = pattern.search(text) if pattern is not None else None
        if match is not None:
            return match.group()
    return None


def _named(text: str, tasks: dict[str, TaskResult], own: re.Pattern[str] | None) -> list[TaskResult]:
    found = {re.sub(r"[ -]", "_", match.group()).lower() for match in own.finditer(text)} if own else set()
    return [task for name, task in tasks.items() if re.sub(r"[ -]", "_", name).lower() in found]


def _numbers(sentence: str) -> Iterator[tuple[re.Match[str], bool]]:
    """Numbers that may be scores, and whether they look like one: a decimal or with a unit."""
    elo = re.search(r"\belo\b", sentence, re.IGNORECASE) is not None
    for match in _NUMBER.finditer(sentence):
        after, before = sentence[match.end() :], sentence[: match.start()]
        if match["unit"] is None and _COUNTED.match(after):
            continue
        if match["unit"] is None and _VERSION.search(before) and 1 <= int(match["whole"]) < 20:
            continue
        strong = match["part"] is not None or match["unit"] is not None
        if strong or int(match["whole"]) <= (4000 if elo else 100):
            yield match, strong
    for match in _SPELLED.finditer(sentence):
        yield match, True


def _agrees(match: re.Match[str], tasks: Iterable[TaskResult]) -> bool:
    """Whether a printed number is one of the tasks' scores, or its share in percent, rounded as printed."""
    if match.re is _SPELLED:
        return False
    digits = (match["part"] or ".")[1:]
    number = float(f"{match['whole']}.{digits or 0}")
    share = match["unit"] is None and match["part"] is not None
    half = 0.5 * 10.0 ** -len(digits) * (1 + 1e-9)
    return any(
        abs(100 * value - number) <= half or (share and abs(value - number) <= half)
        for task in tasks
        for value in reported_values(task)
    )


def reported_values(task: TaskResult) -> Iterator[float]:
    """The scores that the report states of a task, with the ends of their intervals."""
    estimates = [task.score, *task.groups.values()]
    estimates += [task.between_seeds] if task.between_seeds is not None else []
    if task.splits is not None:
        splits = task.splits
        for part in (splits.clean, splits.contaminated, splits.unscannable):
            yield from (value for value in (part.value, part.low, part.high) if value is not None)
        estimates += [splits.clean_minus_all] if splits.clean_minus_all is not None else []
    if task.band is not None:
        yield from (task.band.low, task.band.median, task.band.high)
    for estimate in estimates:
        yield from (estimate.value, estimate.low, estimate.high)
