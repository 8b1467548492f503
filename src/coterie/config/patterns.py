"""Regular expressions from files: Python's search takes exponential time for some of them."""

from __future__ import annotations

import re

_MOST_REPEATS = 5


def may_explode(text: str) -> bool:
    """Whether a repeated group holds a repetition or alternatives, or many repetitions follow one another."""
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", text)  # escapes and classes are single characters
    plain = re.sub(r"\((\?[:=!]|\?<[=!]|\?P<\w+>)", "(", plain)
    open_groups, repeats = [False], 0
    for index, character in enumerate(plain):
        repeated = plain[index + 1 : index + 2] in ("*", "+", "{")
        if character == "(":
            open_groups.append(False)
        elif character == ")" and len(open_groups) > 1:
            if open_groups.pop() and repeated:
                return True
            open_groups[-1] = True
        elif character in "*+{":
            repeats += 1
        if character in "*+{|?":
            open_groups[-1] = True
    return repeats > _MOST_REPEATS
