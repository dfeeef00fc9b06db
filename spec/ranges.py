"""The range of an argument as a contract states it and as specs try it: the boundary works, beyond it raises.

"int >= 1"           whole numbers from 1 on; "even >= 2" and "odd >= 1" likewise
"[0, 1)"             real numbers; a bracket belongs to the range, a parenthesis does not
"[0, inf)"           finite, and not negative
"'zeros', 'same'"    one of these strings
"… or None"          None as well
"""

import ast
import math
import re
from dataclasses import dataclass

_INTERVAL = re.compile(r"([\[(])\s*(\S+)\s*,\s*(\S+)\s*([\])])")
_WHOLE = re.compile(r"(int|even|odd) >= (-?\d+)")


@dataclass(frozen=True)
class Range:
    """Values at the edge of a range: `inside` belong to it, `outside` do not."""

    inside: tuple
    outside: tuple


def parse(text: str) -> Range:
    """The range that `text` describes.

    Raises:
        ValueError: it is written in none of the forms above.
    """
    main, _, optional = text.partition(" or ")
    if optional not in ("", "None"):
        raise ValueError(f"expected a range with nothing but 'or None' after it, found {text!r}")
    none = (None,) if optional else ()
    if whole := _WHOLE.fullmatch(main):
        least = int(whole[2])
        return Range((least, *none), (least - 1,) if whole[1] == "int" else (least - 2, least + 1))
    if interval := _INTERVAL.fullmatch(main):
        ends = ((interval[1] == "[", float(interval[2]), -math.inf), (interval[4] == "]", float(interval[3]), math.inf))
        inside = tuple(end for closed, end, _ in ends if closed)
        # The next float beyond an end that belongs to the range; an end that does not is itself the first beyond.
        beyond = (math.nextafter(end, away) if closed else end for closed, end, away in ends)
        return Range(
            (*inside, *none), tuple(x for x, (closed, end, _) in zip(beyond, ends) if not (closed and math.isinf(end)))
        )
    try:
        words = ast.literal_eval(f"({main},)")
    except (SyntaxError, ValueError):
        words = ()
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"expected a range such as 'int >= 1', '[0, 1)' or \"'zeros', 'same'\", found {text!r}")
    return Range((*words, *none), ("no such choice",))
