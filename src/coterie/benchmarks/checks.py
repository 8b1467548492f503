"""Checks of whether a reply follows an instruction, by name; strict on the reply as it is, or loose.

The names and arguments are those of IFEval (arXiv 2311.07911), whose published file holds them. Words,
sentences and languages are counted and recognised by rules here, without nltk and langdetect, so single
verdicts on `number_sentences`, `capital_word_frequency` and `response_language` may differ from those of its
program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coterie.benchmarks.languages import spoken
from coterie.config.json_text import JsonError, parse_json

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]
CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_LONGEST = 100_000  # characters of a reply that are looked at
_ABBREVIATIONS = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|[A-Z])\.")
_END = re.compile(r"[.!?。！？।]+[\"')\]”’*]*(?=\s|$)")


def sentences(text: str) -> int:
    """How many sentences a text has. Abbreviations and initials end none; a line break ends a paragraph."""
    count = 0
    for line in text.splitlines():
        plain = _ABBREVIATIONS.sub("x", line).strip()
        if re.search(r"\w", plain):
            ends = [match.end() for match in _END.finditer(plain)]
            tail = plain[ends[-1] :] if ends else plain
            count += len(ends) + bool(re.search(r"\w", tail))
    return count


def words(text: str) -> list[str]:
    """The words of a text: letters, digits and underscores in a row."""
    return re.findall(r"\w+", text)


def _related(count: int, wanted: Any, relation: Any) -> bool:
    return count < int(wanted) if relation == "less than" else count >= int(wanted)


def _found(keyword: Any, text: str) -> int:
    return text.casefold().count(str(keyword).casefold())


def _existence(text: str, a: Arguments) -> bool:
    return all(_found(keyword, text) for keyword in a["keywords"])


def _frequency(text: str, a: Arguments) -> bool:
    return _related(_found(a["keyword"], text), a["frequency"], a.get("relation"))


def _forbidden(text: str, a: Arguments) -> bool:
    return not any(
        re.search(rf"\b{re.escape(str(word))}\b", text, re.IGNORECASE) for word in a["forbidden_words"]
    )


def _letters(text: str, a: Arguments) -> bool:
    return _related(_found(a["letter"], text), a["let_frequency"], a.get("let_relation"))


def _sentences(text: str, a: Arguments) -> bool:
    return _related(sentences(text), a["num_sentences"], a.get("relation"))


def _words(text: str, a: Arguments) -> bool:
    return _related(len(words(text)), a["num_words"], a.get("relation"))


def _paragraphs(text: str, a: Arguments) -> bool:
    """Paragraphs between lines of three stars; the first and the last may be empty."""
    parts = [part.strip() for part in text.split("***")]
    inner = parts[1 if not parts[0] else 0 : -1 if len(parts) > 1 and not parts[-1] else None]
    return all(inner) and len(inner) == int(a["num_paragraphs"])


def _first_word(text: str, a: Arguments) -> bool:
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    place = int(a["nth_paragraph"])
    if len(parts) != int(a["num_paragraphs"]) or not 1 <= place <= len(parts):
        return False
    first = re.match(r"[^\s.,?!'\"]*", parts[place - 1].lstrip("'\""))
    return first is not None and first[0].lower() == str(a["first_word"]).lower()


def _placeholders(text: str, a: Arguments) -> bool:
    return len(re.findall(r"\[[^\[\]\n]*\]", text)) >= int(a["num_placeholders"])


def _postscript(text: str, a: Arguments) -> bool:
    letters = [re.escape(letter) for letter in str(a["postscript_marker"]).lower() if letter.isalpha()]
    return re.search(r"(?<!\w)" + r"\.\s?".join(letters) + r"\b", text.lower()) is not None


def _bullets(text: str, a: Arguments) -> bool:
    lines = [line.strip() for line in text.splitlines()]
    marked = [line for line in lines if line.startswith("-") or re.match(r"\*[^*]", line)]
    return len(marked) == int(a["num_bullets"])


def _highlights(text: str, a: Arguments) -> bool:
    single = [part for part in re.findall(r"\*([^\n*]*)\*", text) if part.strip()]
    double = [part for part in re.findall(r"\*\*([^\n*]*)\*\*", text) if part.strip()]
    return len(single) + len(double) >= int(a["num_highlights"])


def _sections(text: str, a: Arguments) -> bool:
    mark = re.escape(str(a["section_spliter"]))
    return len(re.findall(rf"{mark}\s?\d+", text)) >= int(a["num_sections"])


def _json(text: str, a: Arguments) -> bool:
    try:
        plain = text.strip().removeprefix("```").removesuffix("```")
        parse_json(plain[4:] if plain[:4].lower() == "json" else plain)
    except JsonError:
        return False
    return True


def _title(text: str, a: Arguments) -> bool:
    return any(part.strip("<> ") for part in re.findall(r"<<([^\n<>]+)>>", text))


def _two(text: str, a: Arguments) -> bool:
    parts = [part.strip() for part in text.split("******")]
    inner = parts[1 if not parts[0] else 0 : -1 if len(parts) > 1 and not parts[-1] else None]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


def _ends(text: str, a: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(str(a["end_phrase"]).strip().lower())


def _repeats(text: str, a: Arguments) -> bool:
    return text.strip().lower().startswith(str(a["prompt_to_repeat"]).strip().lower())


def _capitals(text: str, a: Arguments) -> bool:
    count = sum(word.isupper() for word in re.findall(r"[\w'-]+", text))
    return _related(count, a["capital_frequency"], a.get("capital_relation"))


def _quoted(text: str, a: Arguments) -> bool:
    plain = text.strip()
    return len(plain) > 1 and plain[0] == plain[-1] == '"'


CHECKS: dict[str, Check] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": lambda text, a: spoken(text, str(a["language"])),
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda text, a: any(one in text for one in CONSTRAINED),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": lambda text, a: text.isupper(),
    "change_case:english_lowercase": lambda text, a: text.islower(),
    "punctuation:no_comma": lambda text, a: "," not in text,
}
# Name -> arguments without which it cannot be checked.
NEEDED: dict[str, tuple[str, ...]] = {
    "keywords:existence": ("keywords",),
    "keywords:frequency": ("keyword", "frequency"),
    "keywords:forbidden_words": ("forbidden_words",),
    "keywords:letter_frequency": ("letter", "let_frequency"),
    "language:response_language": ("language",),
    "length_constraints:number_sentences": ("num_sentences",),
    "length_constraints:number_paragraphs": ("num_paragraphs",),
    "length_constraints:number_words": ("num_words",),
    "length_constraints:nth_paragraph_first_word": ("num_paragraphs", "nth_paragraph", "first_word"),
    "detectable_content:number_placeholders": ("num_placeholders",),
    "detectable_content:postscript": ("postscript_marker",),
    "detectable_format:number_bullet_lists": ("num_bullets",),
    "detectable_format:number_highlighted_sections": ("num_highlights",),
    "detectable_format:multiple_sections": ("section_spliter", "num_sections"),
    "combination:repeat_prompt": ("prompt_to_repeat",),
    "startend:end_checker": ("end_phrase",),
    "change_case:capital_word_frequency": ("capital_frequency",),
}


def follows(text: str, name: str, arguments: Arguments) -> bool:
    """Whether a reply follows one instruction; an empty one follows none. Never raises for known ones."""
    return bool(text.strip()) and CHECKS[name](text[:_LONGEST], arguments)


def loosened(text: str) -> Sequence[str]:
    """The reply, and it without its first line, its last line, both, and without stars: what loose reads."""
    lines = text.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    forms = [text, *cut]
    return [*forms, *(form.replace("*", "") for form in forms)]
