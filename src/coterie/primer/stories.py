"""Templated stories and small facts with questions whose answers follow from the text.

A story is built from episodes; each episode writes its sentences and the questions they settle, and episodes
about counted things or places use names that no other episode uses, so that no later sentence changes an
earlier answer.
"""

from dataclasses import dataclass, field

from coterie.primer.base import PrimerDocument, Rng, held_out
from coterie.primer.words import (
    ANIMALS,
    BOYS,
    CAUSES,
    COLOURS,
    CONTAINERS,
    GIRLS,
    JOBS,
    PLACES,
    SIZES,
    THINGS,
    TIMES,
    TRAITS,
    TREASURES,
    WEATHER,
)

MAX_WORDS = 250


@dataclass
class Episode:
    """Sentences in order, and `(question, answer)` pairs they settle."""

    sentences: list[str] = field(default_factory=list)
    questions: list[tuple[str, str]] = field(default_factory=list)


class Cast:
    """The people and things of one story, each handed out once."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self._people = rng.shuffled(GIRLS + BOYS)
        self._things = rng.sample(THINGS, 6)
        self._treasures = rng.sample(TREASURES, 6)
        self._causes = rng.sample(CAUSES, 4)

    def person(self) -> tuple[str, str, str]:
        """A new name with `she`/`he` and `her`/`his`."""
        name = self._people.pop()
        return (name, "she", "her") if name in GIRLS else (name, "he", "his")

    def thing(self) -> tuple[str, ...]:
        """A new countable thing: singular, plural."""
        return self._things.pop()

    def treasure(self) -> str:
        """A new single thing."""
        return self._treasures.pop()

    def cause(self) -> tuple[str, ...]:
        """A new event and the feeling it brings."""
        return self._causes.pop()


def _count(number: int, thing: tuple[str, ...]) -> str:
    return f"{number} {thing[0] if number == 1 else thing[1]}"


def counting(cast: Cast, hero: str, changes: int) -> Episode:
    """`hero` has some things, gets and loses some; the question asks how many are left (never below zero)."""
    rng, thing = cast.rng, cast.thing()
    number = rng.between(1, 9)
    episode = Episode([f"{hero} had {_count(number, thing)}."])
    for _ in range(changes):
        other = cast.person()[0]
        if number and rng.chance(0.5):
            step = rng.between(1, number)
            number -= step
            lost = _count(step, thing)
            episode.sentences.append(
                rng.pick(
                    (
                        f"{hero} gave {lost} to {other}.",
                        f"{hero} lost {lost}.",
                        f"{other} took {lost} from {hero}.",
                    )
                )
            )
        else:
            step = rng.between(1, 9)
            number += step
            found = _count(step, thing)
            episode.sentences.append(
                rng.pick(
                    (
                        f"{other} gave {hero} {found}.",
                        f"{hero} found {found}.",
                        f"Then {hero} bought {found}.",
                    )
                )
            )
    episode.questions.append((f"How many {thing[1]} does {hero} have now?", str(number)))
    return episode


def hiding(cast: Cast, hero: str, changes: int) -> Episode:
    """`hero` hides a thing that is moved `changes` times; the questions ask where it is and who moved it."""
    rng, thing = cast.rng, cast.treasure()
    spots = rng.sample(CONTAINERS, changes + 1)
    episode = Episode(
        [rng.pick((f"{hero} put the {thing} {spots[0]}.", f"{hero} left the {thing} {spots[0]}."))]
    )
    mover = hero
    for spot in spots[1:]:
        mover = cast.person()[0]
        episode.sentences.append(
            rng.pick(
                (f"Then {mover} put the {thing} {spot}.", f"{mover} took it and put the {thing} {spot}.")
            )
        )
    episode.questions.append((f"Where is the {thing}?", spots[-1]))
    if changes:
        episode.questions.append((f"Who put the {thing} there?", mover))
    return episode


def feeling(cast: Cast, hero: str, changes: int) -> Episode:
    """Once, whatever `changes` is: something happens and `hero` feels so; the questions ask what and why."""
    rng = cast.rng
    event, mood = cast.cause()
    episode = Episode(
        [
            rng.pick(
                (
                    f"{hero} was {mood} because {event}.",
                    f"{event.capitalize()}, so {hero} was {mood}.",
                    f"When {event}, {hero} was {mood}.",
                )
            )
        ]
    )
    episode.questions += [(f"How did {hero} feel?", mood), (f"Why was {hero} {mood}?", f"because {event}")]
    return episode


def giving(cast: Cast, hero: str, changes: int) -> Episode:
    """Once, whatever `changes` is: `hero` gives a coloured thing to somebody."""
    rng, thing = cast.rng, cast.treasure()
    friend, colour = cast.person()[0], rng.pick(COLOURS)
    sentence = rng.pick(
        (
            f"{hero} gave {friend} a {colour} {thing}.",
            f"{hero} made a {colour} {thing} for {friend}.",
            f"{friend} got a {colour} {thing} from {hero}.",
        )
    )
    questions = [(f"What colour was the {thing}?", colour), (f"Who got the {thing}?", friend)]
    return Episode([sentence], questions)


def travelling(cast: Cast, hero: str, changes: int) -> Episode:
    """`hero` goes from place to place and meets an animal on the way."""
    rng = cast.rng
    places = rng.sample(PLACES, changes + 1)
    animal = rng.pick(ANIMALS)
    episode = Episode([f"{hero} went to the {places[0]} and met a {rng.pick(SIZES)} {animal} there."])
    for place in places[1:]:
        episode.sentences.append(
            rng.pick((f"After that {hero} walked to the {place}.", f"Next {hero} ran to the {place}."))
        )
    if changes:
        episode.questions.append((f"Where did {hero} go last?", f"to the {places[-1]}"))
    episode.questions.append((f"Where did {hero} meet the {animal}?", f"at the {places[0]}"))
    return episode


def working(cast: Cast, hero: str, changes: int) -> Episode:
    """Once, whatever `changes` is: `hero` has a job and lives somewhere."""
    rng = cast.rng
    job, place = rng.pick(JOBS), rng.pick(PLACES)
    sentence = rng.pick(
        (
            f"{hero} was a {job} and lived near the {place}.",
            f"Near the {place} lived {hero}, who was a {job}.",
        )
    )
    return Episode(
        [sentence], [(f"What was {hero}'s job?", job), (f"Where did {hero} live?", f"near the {place}")]
    )


_EPISODES = (counting, counting, hiding, hiding, feeling, giving, travelling, working)


def _mini(rng: Rng) -> tuple[str, str, str]:
    """A few sentences of one or two episodes, and a question that they answer: (text, question, answer)."""
    cast = Cast(rng)
    episodes = []
    for write in rng.sample(_EPISODES, rng.pick((1, 1, 2))):
        episodes.append(write(cast, cast.person()[0], rng.between(1, 2)))
    text = " ".join(sentence for episode in episodes for sentence in episode.sentences)
    question, answer = rng.pick(rng.pick(episodes).questions)
    return text, question, answer


def _prompt(text: str, question: str) -> str:
    return f"{text}\nQ: {question}\nA:"


def reserved(text: str, question: str) -> bool:
    """Whether this small story with this question is kept for probes."""
    return held_out(f"story {_prompt(text, question)}")


def trained(rng: Rng) -> tuple[str, str, str]:
    """A small story that is not reserved, with a question and its answer."""
    while True:
        text, question, answer = _mini(rng)
        if not reserved(text, question):
            return text, question, answer


def _facts(rng: Rng) -> str:
    """Several small stories, each with its question."""
    parts: list[str] = []
    words, goal = 0, rng.between(60, 170)
    while words < goal:
        text, question, answer = trained(rng)
        parts.append(f"{_prompt(text, question)} {answer}")
        words += len(parts[-1].split())
    return "\n\n".join(parts)


def _opening(rng: Rng, hero: str, she: str, her: str) -> list[str]:
    trait, animal, place = rng.pick(TRAITS), rng.pick(ANIMALS), rng.pick(PLACES)
    child = "girl" if she == "she" else "boy"
    time, weather = rng.pick(TIMES), rng.pick(WEATHER)
    first = rng.pick(
        (
            f"Once upon a time there was a {trait} {child} named {hero}.",
            f"There once was a {child} called {hero}. Everyone said that {she} was {trait}.",
            f"{hero} was a {trait} {child} who lived near the {place}.",
            f"In a house by the {place} lived {hero}, a {trait} {child}.",
            f"{hero} and {her} {animal} lived near the {place}.",
        )
    )
    day = rng.pick(
        (
            f"{time} it was {weather} and {hero} wanted to go out.",
            f"{time} {hero} woke up and looked out of the window. It was {weather}.",
            f"It was a {weather} day, and {she} had nothing to do.",
            f'{time} {her} mother said, "It is {weather} today. Take your coat!"',
        )
    )
    return [first, day]


def _between(rng: Rng, hero: str, she: str, her: str, friend: str) -> str:
    place, animal = rng.pick(PLACES), rng.pick(ANIMALS)
    return rng.pick(
        (
            f'"What shall we do now?" asked {friend}. "Let us look at the {animal}," said {hero}.',
            f'{friend} laughed and said, "You are {rng.pick(TRAITS)}, {hero}."',
            f"They sat down near the {place} and talked for a long time.",
            f'"Will you help me?" asked {friend}. "Of course," said {hero}.',
            f"{hero} and {friend} shared some bread and {she} told {friend} about the {animal}.",
            f"A {rng.pick(SIZES)} {animal} watched them from far away.",
            f"{friend} did not know what to say, so {hero} smiled.",
            f"{hero} thought about {her} {animal} and {her} friends.",
            f"The wind blew over the {place} and the day went by.",
        )
    )


def _ending(rng: Rng, hero: str, she: str, her: str, friend: str) -> str:
    return rng.pick(
        (
            f"In the evening {hero} went home and told {her} family everything.",
            f'"That was a good day," said {hero}, and {friend} agreed.',
            f"From then on {hero} and {friend} were friends.",
            f"{hero} was tired, went to bed and slept well.",
            f"At last {she} knew that it is good to be {rng.pick(TRAITS)}.",
            f"And when {she} was old, {hero} still liked to tell this story.",
        )
    )


def _story(rng: Rng) -> str:
    """One story about a hero and a friend, with questions about some of its episodes."""
    cast = Cast(rng)
    hero, she, her = cast.person()
    friend = cast.person()[0]
    sentences = _opening(rng, hero, she, her)
    questions: list[tuple[str, str]] = []
    for number, write in enumerate(rng.sample((counting, hiding, feeling, giving), rng.between(2, 4))):
        episode = write(cast, hero, rng.between(1, 3))
        sentences += episode.sentences
        questions.append(rng.pick(episode.questions))
        if number % 2 == 0 or rng.chance(0.6):
            sentences.append(_between(rng, hero, she, her, friend))
    sentences.append(_ending(rng, hero, she, her, friend))
    asked = [f"Q: {question}\nA: {answer}" for question, answer in rng.shuffled(questions)]
    return "\n".join([" ".join(sentences), *asked])


def generate(seed: int, index: int) -> PrimerDocument:
    """Document `index`: a story with questions, or several small ones; 60 to 250 words."""
    rng = Rng("stories", seed, index)
    write = _facts if rng.chance(0.35) else _story
    while True:
        text = write(rng)
        if 60 <= len(text.split()) <= MAX_WORDS:
            return PrimerDocument(text + "\n", "stories", f"stories/{index}")


def probes(seed: int, count: int) -> list[tuple[str, str]]:
    """`count` different reserved small stories as (`Mia had 3 apples. ...\\nQ: ...?\\nA:`, `5`)."""
    rng = Rng("stories probes", seed)
    found: dict[str, str] = {}
    while len(found) < count:
        text, question, answer = _mini(rng)
        if reserved(text, question):
            found[_prompt(text, question)] = answer
    return list(found.items())
