"""Conversations: small talk, direct sums and calls, and tool use (calculator, lookup, python) with errors.

`messages` is the conversation in the OpenAI form. A document's text is its rendering in ChatML, the package's
default chat template. No conversation contains a problem that other slices reserve for probes.
"""

import json
from typing import Any

from coterie.primer import arithmetic, functions, stories
from coterie.primer.base import PrimerDocument, Rng
from coterie.primer.talk import FAREWELLS, GREETINGS, TOPICS, Topic
from coterie.primer.words import BOYS, CAPITALS, COLOURS, GIRLS, THINGS, WORDS

Message = dict[str, Any]

SYSTEM = "You are a helpful assistant."
TOOLS = f"{SYSTEM} You can call tools: calculator(expression), lookup(key), python(code)."
_SIGNS = {"+": "plus", "-": "minus", "*": "times"}


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _call(name: str, content: str, **arguments: str) -> Message:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def _tool(name: str, content: str) -> Message:
    return {"role": "tool", "name": name, "content": content}


def exchange(rng: Rng, topics: tuple[Topic, ...]) -> list[Message]:
    """Something said and its answer."""
    asks, answers = rng.pick(topics)
    return [_user(rng.pick(asks)), _assistant(rng.pick(answers))]


def _meeting(rng: Rng) -> list[Message]:
    name = rng.pick(GIRLS + BOYS)
    hello = rng.pick(("Hi, I am {}.", "Hello, my name is {}.", "I am {}."))
    reply = rng.pick(("Hello {}! How can I help you?", "Nice to meet you, {}."))
    talk = [_user(hello.format(name)), _assistant(reply.format(name))]
    talk += [message for _ in range(rng.between(1, 2)) for message in exchange(rng, TOPICS)]
    if rng.chance(0.4):
        talk += [
            _user(rng.pick(("What is my name?", "Do you remember my name?"))),
            _assistant(f"Your name is {name}."),
        ]
    return talk


def _chatting(rng: Rng) -> list[Message]:
    talk = exchange(rng, GREETINGS) if rng.chance(0.6) else []
    asked = rng.sample(TOPICS, rng.between(2, 3))
    talk += [message for topic in asked for message in exchange(rng, (topic,))]
    return talk + (exchange(rng, FAREWELLS) if rng.chance(0.6) else [])


def _sum(rng: Rng, most: int) -> tuple[str, int]:
    """An expression such as `47 * 85` that is not kept for probes, and its value."""
    while True:
        first, second, sign = rng.between(2, most), rng.between(2, most), rng.pick("+-*")
        expression = f"{first} {sign} {second}"
        if not arithmetic.reserved(expression):
            return expression, {"+": first + second, "-": first - second, "*": first * second}[sign]


def _asked(rng: Rng, expression: str) -> str:
    first, sign, second = expression.split()
    forms = (f"What is {expression}?", f"Compute {expression}.", f"What is {first} {_SIGNS[sign]} {second}?")
    return rng.pick((*forms, f"Can you work out {expression}?", f"{expression}?"))


def _told(rng: Rng, expression: str, value: int) -> str:
    return rng.pick((f"{expression} = {value}.", f"It is {value}.", f"The answer is {value}."))


def _which(rng: Rng, country: str) -> str:
    return rng.pick((f"What is the capital of {country}?", f"Which city is the capital of {country}?"))


def _direct(rng: Rng) -> list[Message]:
    talk: list[Message] = []
    for _ in range(rng.between(2, 4)):
        if rng.chance(0.25):
            country = rng.pick(tuple(CAPITALS))
            talk += [
                _user(_which(rng, country)),
                _assistant(f"The capital of {country} is {CAPITALS[country]}."),
            ]
        elif rng.chance(0.5):
            expression, value = _sum(rng, 20)
            talk += [_user(_asked(rng, expression)), _assistant(_told(rng, expression, value))]
        else:
            call, result = functions.trained(rng, (rng.pick(functions.FUNCTIONS),))[-1]
            talk += [_user(f"What is {call}?"), _assistant(f"{call} = {result}")]
    return talk


def _reading(rng: Rng) -> list[Message]:
    text, question, answer = stories.trained(rng)
    return [_user(f"{text} {question}"), _assistant(answer[0].upper() + answer[1:] + ".")]


def _calculator(rng: Rng) -> list[Message]:
    return [message for _ in range(rng.between(1, 2)) for message in sum_with_calculator(rng, failing=0.25)]


def sum_with_calculator(rng: Rng, failing: float = 0.0) -> list[Message]:
    """A sum that the assistant computes with the calculator. `failing`: how often the first call fails."""
    expression, value = _sum(rng, 999)
    talk = [_user(_asked(rng, expression))]
    if rng.chance(failing):
        first, sign, second = expression.split()
        talk += [
            _call("calculator", "", expression=f"{first} {_SIGNS[sign]} {second}"),
            _tool("calculator", f"error: cannot read '{_SIGNS[sign]}', use + - * /"),
            _call("calculator", f"I will write it with {sign}.", expression=expression),
        ]
    else:
        talk.append(_call("calculator", "", expression=expression))
    return [*talk, _tool("calculator", str(value)), _assistant(_told(rng, expression, value))]


def _lookup(rng: Rng) -> list[Message]:
    talk: list[Message] = []
    for country in rng.sample(tuple(CAPITALS), rng.between(2, 3)):
        city, key = CAPITALS[country], f"capital of {country}"
        talk.append(_user(_which(rng, country)))
        if rng.chance(0.3):
            wrong = rng.pick((f"capitol of {country}", f"main city of {country}", f"capital {country}"))
            talk += [_call("lookup", "", key=wrong), _tool("lookup", f"error: nothing found for '{wrong}'")]
            talk.append(_call("lookup", "I will try another key.", key=key))
        else:
            talk.append(_call("lookup", "", key=key))
        talk += [
            _tool("lookup", city),
            _assistant(rng.pick((f"The capital of {country} is {city}.", f"It is {city}."))),
        ]
    return talk


def _shopping(rng: Rng) -> list[Message]:
    """A price is looked up, then multiplied: two tools in a row."""
    one, many = rng.pick(THINGS)
    colour, price = rng.pick(COLOURS), rng.between(2, 60)
    count = rng.between(2, 40)
    while arithmetic.reserved(f"{count} * {price}"):
        count = rng.between(2, 40)
    key = f"price of a {colour} {one}"
    return [
        _user(rng.pick((f"How much are {count} {colour} {many}?", f"What do {count} {colour} {many} cost?"))),
        _call("lookup", "", key=key),
        _tool("lookup", str(price)),
        _call("calculator", "", expression=f"{count} * {price}"),
        _tool("calculator", str(count * price)),
        _assistant(f"One {colour} {one} costs {price}, so {count} cost {count * price}."),
    ]


def _python_task(rng: Rng) -> tuple[str, str, str]:
    """A request, an expression that does it, and what printing it shows."""
    if rng.chance(0.5):
        numbers = [rng.between(0, 99) for _ in range(rng.between(3, 6))]
        ask, name, value = rng.pick(
            (
                (f"Sort {numbers}.", "sorted", str(sorted(numbers))),
                (f"What is the sum of {numbers}?", "sum", str(sum(numbers))),
                (f"What is the largest of {numbers}?", "max", str(max(numbers))),
                (f"What is the smallest of {numbers}?", "min", str(min(numbers))),
            )
        )
        return ask, f"{name}({numbers})", value
    word = rng.pick(WORDS)
    letter = rng.pick(word)
    return rng.pick(
        (
            (f'How many letters are in "{word}{word}"?', f'len("{word}{word}")', str(2 * len(word))),
            (f'Write "{word}" backwards, twice.', f'("{word}"[::-1]) * 2', word[::-1] * 2),
            (f'How often is {letter} in "{word}"?', f'"{word}".count("{letter}")', str(word.count(letter))),
        )
    )


def _python(rng: Rng) -> list[Message]:
    return program(rng, ("", "", "name", "syntax"))


def program(rng: Rng, failures: tuple[str, ...] = ("",)) -> list[Message]:
    """A task that a one-expression program solves. `failures`: how the first try may fail ("": it works)."""
    ask, expression, value = _python_task(rng)
    talk = [_user(rng.pick((ask, f"{ask} Use Python.")))]
    failure = rng.pick(failures)
    if failure == "name":
        talk += [_call("python", "", code=f"print(result)\nresult = {expression}")]
        talk += [_tool("python", "NameError: name 'result' is not defined")]
    elif failure == "syntax":
        talk += [
            _call("python", "", code=f"print({expression}"),
            _tool("python", "SyntaxError: '(' was never closed"),
        ]
    if failure:
        retry = {"name": "I used result before it had a value.", "syntax": "A bracket was missing."}[failure]
        talk.append(_call("python", retry, code=f"result = {expression}\nprint(result)"))
    else:
        talk.append(_call("python", "", code=f"print({expression})"))
    return [
        *talk,
        _tool("python", value),
        _assistant(rng.pick((f"The answer is {value}.", f"It is {value}."))),
    ]


_PLAIN = (_meeting, _chatting, _chatting, _direct, _reading)
_WITH_TOOLS = (_calculator, _calculator, _lookup, _shopping, _python, _python)


def messages(seed: int, index: int) -> list[Message]:
    """Conversation `index` as dictionaries with `role`, `content` and, for a tool call, `tool_calls`.

    The form is OpenAI's, with arguments as an object. A tool's answer has `name`. The system message lists
    the tools.
    """
    rng = Rng("dialogues", seed, index)
    if rng.chance(0.6):
        system = [{"role": "system", "content": SYSTEM}] if rng.chance(0.3) else []
        return [*system, *rng.pick(_PLAIN)(rng)]
    talk = rng.pick(_WITH_TOOLS)(rng)
    return [
        {"role": "system", "content": TOOLS},
        *talk,
        *(exchange(rng, FAREWELLS) if rng.chance(0.2) else []),
    ]


def render(talk: list[Message]) -> str:
    """The conversation as ChatML text."""
    return "".join(f"<|im_start|>{message['role']}\n{_content(message)}<|im_end|>\n" for message in talk)


def _content(message: Message) -> str:
    if message["role"] == "tool":
        return f"<tool_response>\n{message['content']}\n</tool_response>"
    parts = [message["content"]] if message["content"] else []
    for call in message.get("tool_calls", ()):
        parts.append(f"<tool_call>\n{json.dumps(call['function'])}\n</tool_call>")
    return "\n".join(parts)


def generate(seed: int, index: int) -> PrimerDocument:
    """Document `index`: a conversation as text and as messages."""
    talk = messages(seed, index)
    return PrimerDocument(render(talk), "dialogues", f"dialogues/{index}", tuple(talk))
