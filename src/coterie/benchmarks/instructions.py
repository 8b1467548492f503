"""Instruction following: a small subject, and one to three instructions that a program can check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coterie.benchmarks.checks import CONSTRAINED, follows, loosened
from coterie.benchmarks.generated import Cell, Draft, GeneratedBenchmark
from coterie.benchmarks.item import BenchmarkItem, ItemReply, ItemVerdict
from coterie.primer.base import Rng
from coterie.primer.words import ANIMALS, COLOURS, PLACES, WEATHER, WORDS

Asked = tuple[str, str, dict[str, Any]]  # the instruction in words, its name in `CHECKS`, its arguments

_SUBJECTS = tuple(f"Write about a {one}." for one in (*ANIMALS, *PLACES)) + tuple(
    f"Describe a {one} day." for one in WEATHER
)
_LESS = ("less than", "Use fewer than {} {}.")
_LEAST = ("at least", "Use at least {} {}.")


def _keywords(rng: Rng) -> Asked:
    chosen = rng.sample(WORDS, 2)
    return f"Use the words {chosen[0]} and {chosen[1]}.", "keywords:existence", {"keywords": chosen}


def _frequency(rng: Rng) -> Asked:
    word, count = rng.pick(WORDS), rng.between(2, 4)
    arguments = {"keyword": word, "frequency": count, "relation": "at least"}
    return f"Use the word {word} at least {count} times.", "keywords:frequency", arguments


def _forbidden(rng: Rng) -> Asked:
    words = rng.sample(("the", "is", "and", "of", "it", "was"), 2)
    text = f"Do not use the words {words[0]} and {words[1]}."
    return text, "keywords:forbidden_words", {"forbidden_words": words}


def _letters(rng: Rng) -> Asked:
    letter, count = rng.pick("jqvxz"), rng.between(2, 5)
    arguments = {"letter": letter, "let_frequency": count, "let_relation": "at least"}
    return f"Use the letter {letter} at least {count} times.", "keywords:letter_frequency", arguments


def _counted(rng: Rng, kind: str, name: str, key: str, low: int, high: int) -> Asked:
    relation, says = rng.pick((_LESS, _LEAST))
    count = rng.between(low, high)
    return says.format(count, kind), name, {key: count, "relation": relation}


def _language(rng: Rng) -> Asked:
    code, says = rng.pick((("de", "German"), ("fr", "French"), ("es", "Spanish"), ("it", "Italian")))
    return f"Answer in {says} only.", "language:response_language", {"language": code}


def _paragraphs(rng: Rng) -> Asked:
    count = rng.between(2, 4)
    text = f"Write {count} paragraphs and put a line of three stars (***) between them."
    return text, "length_constraints:number_paragraphs", {"num_paragraphs": count}


def _first_word(rng: Rng) -> Asked:
    count, word = rng.between(2, 4), rng.pick(WORDS)
    place = rng.between(1, count)
    text = f"Write {count} paragraphs with an empty line between them. Paragraph {place} begins with {word}."
    arguments = {"num_paragraphs": count, "nth_paragraph": place, "first_word": word}
    return text, "length_constraints:nth_paragraph_first_word", arguments


def _plain(text: str, name: str, key: str, low: int, high: int) -> Callable[[Rng], Asked]:
    def draw(rng: Rng) -> Asked:
        count = rng.between(low, high)
        return text.format(count), name, {key: count}

    return draw


def _fixed(text: str, name: str) -> Callable[[Rng], Asked]:
    return lambda rng: (text, name, {})


def _sections(rng: Rng) -> Asked:
    count, mark = rng.between(2, 4), rng.pick(("Section", "Part", "Chapter"))
    text = f"Write {count} sections that begin with {mark} 1, {mark} 2 and so on."
    arguments = {"section_spliter": mark, "num_sections": count}
    return text, "detectable_format:multiple_sections", arguments


def _end(rng: Rng) -> Asked:
    phrase = f"That is all about {rng.pick(COLOURS)} {rng.pick(WORDS)}."
    return f'End with the words "{phrase}"', "startend:end_checker", {"end_phrase": phrase}


def _postscript(rng: Rng) -> Asked:
    marker = rng.pick(("P.S.", "P.P.S"))
    return (
        f"Add a postscript that begins with {marker}",
        "detectable_content:postscript",
        {"postscript_marker": marker},
    )


def _capitals(rng: Rng) -> Asked:
    count = rng.between(2, 5)
    arguments = {"capital_frequency": count, "capital_relation": "at least"}
    text = f"Write at least {count} words in capital letters."
    return text, "change_case:capital_word_frequency", arguments


_KINDS: dict[str, Callable[[Rng], Asked]] = {
    "keywords": _keywords,
    "frequency": _frequency,
    "forbidden": _forbidden,
    "letters": _letters,
    "language": _language,
    "sentences": lambda rng: _counted(
        rng, "sentences", "length_constraints:number_sentences", "num_sentences", 3, 6
    ),
    "paragraphs": _paragraphs,
    "words": lambda rng: _counted(rng, "words", "length_constraints:number_words", "num_words", 20, 60),
    "first word": _first_word,
    "placeholders": _plain(
        "Leave at least {} placeholders in square brackets, such as [name].",
        "detectable_content:number_placeholders", "num_placeholders", 1, 3,
    ),
    "postscript": _postscript,
    "bullets": _plain(
        "Write exactly {} bullet points, each in a line that begins with a star and a space.",
        "detectable_format:number_bullet_lists", "num_bullets", 2, 5,
    ),
    "constrained": _fixed(
        f"Is it a good idea? Answer with one of: {' '.join(CONSTRAINED)}",
        "detectable_format:constrained_response",
    ),
    "highlights": _plain(
        "Highlight at least {} parts with stars, such as *this part*.",
        "detectable_format:number_highlighted_sections", "num_highlights", 2, 4,
    ),
    "sections": _sections,
    "json": _fixed("Give the whole reply as JSON.", "detectable_format:json_format"),
    "title": _fixed("Give it a title in double angular brackets, such as <<title>>.",
                    "detectable_format:title"),
    "two": _fixed("Give two different replies with six stars (******) between them.",
                  "combination:two_responses"),
    "repeat": lambda rng: ("", "combination:repeat_prompt", {}),
    "end": _end,
    "quotation": _fixed("Put the whole reply in double quotation marks.", "startend:quotation"),
    "capitals": _capitals,
    "upper": _fixed("Write in English and in capital letters only.", "change_case:english_capital"),
    "lower": _fixed("Write in English and in small letters only.", "change_case:english_lowercase"),
    "no comma": _fixed("Use no commas.", "punctuation:no_comma"),
}  # fmt: skip
# What is asked for together, besides one alone. No two contradict each other.
_TOGETHER = (
    ("keywords", "no comma"), ("keywords", "lower"), ("frequency", "title"), ("bullets", "end"),
    ("sections", "postscript"), ("highlights", "keywords"), ("paragraphs", "placeholders"),
    ("keywords", "quotation"), ("end", "no comma", "keywords"), ("bullets", "keywords", "title"),
    ("sections", "end", "placeholders"), ("frequency", "postscript", "highlights"),
)  # fmt: skip


def verdict_on(text: str, checks: Sequence[tuple[str, Mapping[str, Any]]]) -> ItemVerdict:
    """Right where all instructions are followed. `lenient`: as `loosened` reads the reply."""
    broken = [name for name, arguments in checks if not follows(text, name, arguments)]
    forms = loosened(text) if broken else []
    loose = all(
        any(follows(form, name, arguments) for form in forms) for name, arguments in checks if name in broken
    )
    return ItemVerdict(
        score=float(not broken),
        extracted=f"{len(checks) - len(broken)} of {len(checks)}",
        lenient=float(loose),
        unparsed=not text.strip(),
        why=f"not followed: {', '.join(broken)}" if broken else "",
    )


class Instructions(GeneratedBenchmark):
    """Writing with instructions, judged by them alone: what is written about the subject does not count."""

    name = "instructions"
    says = "writing under 1 to 3 of 25 kinds of instructions that a program can check"
    form = ""
    exclusive = False
    guessable = 0.35  # many an instruction is followed by chance, and by the reply to another
    cluster_key = "instructions"

    def cells(self) -> Sequence[Cell]:
        """Each kind alone, and a few together."""
        return [
            *(Cell(name, "one") for name in _KINDS),
            *(Cell(" + ".join(names), "several", len(names)) for names in _TOGETHER),
        ]

    def draw(self, rng: Rng, cell: Cell) -> Draft:
        """A subject and instructions."""
        subject = rng.pick(_SUBJECTS)
        drawn = [_KINDS[name](rng) for name in cell.template.split(" + ")]
        if cell.template == "repeat":
            text = "First repeat this request word by word, then answer it."
            checks = [["combination:repeat_prompt", {"prompt_to_repeat": subject}]]
            return Draft(f"{subject} {text}", "all instructions", facts={"checks": checks})
        said = [subject, *(text for text, _, _ in drawn)]
        checks = [[name, arguments] for _, name, arguments in drawn]
        return Draft(" ".join(said), "all instructions", facts={"checks": checks})

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Whether all instructions are followed."""
        return verdict_on(reply.text, item.facts["checks"])

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        """The request in other frames."""
        text = item.question
        if item.cluster.startswith("repeat/"):
            return ()  # what is to be repeated would change
        frames = (
            "Request: {}", "Please do this: {}", "{}\n", "### Task\n{}", "<task>\n{}\n</task>",
            "Here is a task for you.\n\n{}", "Task:\n{}", "{} Thank you.", "Do the following. {}",
        )  # fmt: skip
        return [frame.format(text) for frame in frames]

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """A reply that follows them, put together piece by piece."""
        return ItemReply(text=obedient(item.facts["checks"]))


_SENTENCES = {
    "de": "Der Hund ist auf dem Weg und die Sonne ist nicht zu sehen",
    "fr": "Le chien est sur le chemin et il ne voit pas la maison",
    "es": "El perro no está en la casa y los niños lo ven en el camino",
    "it": "Il cane è nella casa e non si vede la strada che è di lui",
}


def obedient(checks: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A text that follows instructions which do not contradict each other."""
    asked = {name.split(":")[1]: arguments for name, arguments in checks}
    if "language:response_language" in dict(checks):
        return _SENTENCES[asked["response_language"]["language"]]
    words = [str(word) for word in asked.get("existence", {}).get("keywords", ())]
    if "frequency" in asked:
        words += [str(asked["frequency"]["keyword"])] * int(asked["frequency"]["frequency"])
    if "letter_frequency" in asked:
        words.append(asked["letter_frequency"]["letter"] * int(asked["letter_frequency"]["let_frequency"]))
    if "number_words" in asked and asked["number_words"]["relation"] == "at least":
        words += ["more"] * int(asked["number_words"]["num_words"])
    text = " ".join(["here you see", *words])
    parts = _parts(asked, text)
    if "number_placeholders" in asked:
        parts[-1] += " [name]" * int(asked["number_placeholders"]["num_placeholders"])
    if "number_highlighted_sections" in asked:
        parts += ["*this*"] * int(asked["number_highlighted_sections"]["num_highlights"])
    if "title" in asked:
        parts.insert(0, "<<a day>>")
    if "capital_word_frequency" in asked:
        parts.append("SO " * int(asked["capital_word_frequency"]["capital_frequency"]))
    if "postscript" in asked:
        parts.append(f"{asked['postscript']['postscript_marker']} bye")
    if "end_checker" in asked:
        parts.append(str(asked["end_checker"]["end_phrase"]))
    reply = "\n\n".join(parts)
    if "quotation" in asked:
        reply = f'"{reply}"'
    return reply.upper() if "english_capital" in asked else reply


def _parts(asked: Mapping[str, Mapping[str, Any]], text: str) -> list[str]:
    """The body of an obedient text."""
    if "number_sentences" in asked:
        facts = asked["number_sentences"]
        return [f"{text}. " * (int(facts["num_sentences"]) if facts["relation"] == "at least" else 1)]
    if "number_paragraphs" in asked:
        return ["\n\n***\n\n".join([text] * int(asked["number_paragraphs"]["num_paragraphs"]))]
    if "nth_paragraph_first_word" in asked:
        facts = asked["nth_paragraph_first_word"]
        parts = [text] * int(facts["num_paragraphs"])
        parts[int(facts["nth_paragraph"]) - 1] = f"{facts['first_word']} {text}"
        return parts
    if "number_bullet_lists" in asked:
        return ["\n".join([f"* {text}"] * int(asked["number_bullet_lists"]["num_bullets"]))]
    if "multiple_sections" in asked:
        facts = asked["multiple_sections"]
        return [f"{facts['section_spliter']} {n}\n{text}" for n in range(1, int(facts["num_sections"]) + 1)]
    if "two_responses" in asked:
        return [f"{text}\n******\n{text} again"]
    if "json_format" in asked:
        return ['{"text": "here you see"}']
    if "constrained_response" in asked:
        return [CONSTRAINED[0]]
    if "repeat_prompt" in asked:
        return [f"{asked['repeat_prompt']['prompt_to_repeat']} {text}"]
    return [text]
