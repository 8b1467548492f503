"""Every answer follows from the story, found here again by reading its sentences."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.primer import qa_probes, stories
from coterie.primer.words import COLOURS, CONTAINERS, JOBS, THINGS, TREASURES

SEEDS = st.integers(0, 10**6)
PLURAL = {form: many for one, many in THINGS for form in (one, many)}
SPOTS = "|".join(CONTAINERS)


def count(text: str, hero: str, things: str) -> str:
    """Add up what `hero` had, got and lost, sentence by sentence."""
    total = 0
    for sentence in re.split(r"(?<=[.!?])\"? ", text):
        for number, thing in re.findall(r"(\d+) (\w+)", sentence):
            if PLURAL[thing] != things or hero not in sentence:
                continue
            lost = re.search(rf"{hero} (gave|lost)|from {hero}", sentence)
            total += -int(number) if lost else int(number)
            assert total >= 0
    return str(total)


def answer(text: str, question: str) -> str:
    """The answer to a question, from the text alone."""
    if match := re.fullmatch(r"How many (\w+) does (\w+) have now\?", question):
        return count(text, match[2], match[1])
    if match := re.fullmatch(r"Where is the (\w+)\?", question):
        return re.findall(rf"(?:put|left) the {match[1]} ({SPOTS})", text)[-1]
    if re.fullmatch(r"Who put the (\w+) there\?", question):
        thing = question.split()[3]
        return re.findall(rf"(\w+) (?:took it and )?(?:put|left) the {thing} ", text)[-1]
    if match := re.fullmatch(r"How did (\w+) feel\?", question):
        return re.search(
            rf"{match[1]} was (\w+) because|, (?:so )?{match[1]} was (?P<mood>\w+)", text
        ).expand(r"\1\g<mood>")
    if match := re.fullmatch(r"Why was (\w+) (\w+)\?", question):
        who = f"{match[1]} was {match[2]}"
        found = re.search(
            rf"{who} because (.+?)\.|(?:^|[.\"] )(?:When )?([A-Z][^.\"]*?|[^.\"]*?), (?:so )?{who}\.", text
        )
        return "because " + (found[1] or found[2][0].lower() + found[2][1:])
    if match := re.fullmatch(r"What colour was the (\w+)\?", question):
        return re.search(rf"a ({'|'.join(COLOURS)}) {match[1]}", text)[1]
    if match := re.fullmatch(r"Who got the (\w+)\?", question):
        thing = match[1]
        found = re.search(rf"gave (\w+) a \w+ {thing}|a \w+ {thing} for (\w+)|(\w+) got a \w+ {thing}", text)
        return next(filter(None, found.groups()))
    if match := re.fullmatch(r"Where did (\w+) go last\?", question):
        return "to the " + re.findall(rf"{match[1]} (?:went|walked|ran) to the (\w+)", text)[-1]
    if match := re.fullmatch(r"Where did (\w+) meet the (\w+)\?", question):
        return "at the " + re.search(rf"{match[1]} went to the (\w+) and met a \w+ {match[2]}", text)[1]
    if match := re.fullmatch(r"What was (\w+)'s job\?", question):
        return re.search(
            rf"{match[1]}, who was a ({'|'.join(JOBS)})|{match[1]} was a (?P<job>{'|'.join(JOBS)})", text
        ).expand(r"\1\g<job>")
    name = re.fullmatch(r"Where did (\w+) live\?", question)[1]
    found = re.search(rf"Near the (\w+) lived {name}|{name} was a \w+ and lived near the (\w+)", text)
    return "near the " + (found[1] or found[2])


def asked(document: str) -> list[tuple[str, str, str]]:
    """`(text, question, answer)` of every question; a paragraph's questions belong to its text."""
    found = []
    for paragraph in document.strip().split("\n\n"):
        text, *rest = paragraph.split("\n")
        for question, reply in zip(rest[::2], rest[1::2], strict=True):
            found.append((text, question.removeprefix("Q: "), reply.removeprefix("A: ")))
    return found


@settings(max_examples=250, deadline=None)
@given(SEEDS, SEEDS)
def test_every_answer_follows_and_none_is_a_probe(seed, index):
    document = stories.generate(seed, index).text
    assert 60 <= len(document.split()) <= 250
    found = asked(document)
    assert found
    for text, question, reply in found:
        assert answer(text, question) == reply, (text, question)
        if "\n\n" in document:  # a sheet of small stories, the form that probes have
            assert not stories.reserved(text, question)


def test_every_kind_of_question_is_asked():
    kinds = (
        "How many",
        "Where is",
        "Who put",
        "How did",
        "Why was",
        "What colour",
        "Who got",
        "Where did",
        "What was",
    )
    text = "".join(stories.generate(0, index).text for index in range(300))
    assert all(f"Q: {kind} " in text for kind in kinds)


def test_a_thing_is_named_once_per_story():
    """Two treasures of one name in a story would make a question ambiguous."""
    for index in range(200):
        text = asked(stories.generate(1, index).text)[0][0]
        for thing in TREASURES:
            owners = re.findall(rf"(?:gave \w+|made|got) a \w+ {thing}\b", text)
            places = re.findall(rf"(?:put|left) the {thing} ", text)
            assert len(owners) <= 1 and not (owners and places)


def test_probes_are_right_reserved_and_absent_from_training():
    probes = qa_probes("stories", 5, 150)
    assert len(dict(probes)) == 150
    for prompt, reply in probes:
        ((text, question, _),) = asked(f"{prompt} {reply}")
        assert answer(text, question) == reply and stories.reserved(text, question)
    trained = "".join(stories.generate(5, index).text for index in range(1500))
    assert not any(prompt in trained for prompt, _ in probes)
