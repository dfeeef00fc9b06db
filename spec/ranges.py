"""The range of an argument as a contract states it and as specs try it: the boundary works, beyond it raises.

"int >= 1"           whole numbers from 1 on; "even >= 2" and "odd >= 1" likewise
"int in [2, 16]"     whole numbers between two ends that belong to the range
"[0, 1)"             real numbers; a bracket belongs to the range, a parenthesis does not
"[0, inf)"           finite, and not negative
"pair of [0, 1)"     two real numbers, each in that range
"'zeros', 'same'"    one of these strings
"int >= 1 or None"   alternatives, None among them
"""

import ast
import math
import re
from dataclasses import dataclass

_INTERVAL = re.compile(r"([\[(])\s*(\S+)\s*,\s*(\S+)\s*([\])])")
_WHOLE = re.compile(r"(int|even|odd) >= (-?\d+)")
_PAIR = re.compile(r"pair of (.+)")
_MIDDLE = 0.5  # of the pair's other number: it belongs to any range that a pair is given in
_BETWEEN = re.compile(r"int in \[(-?\d+), (-?\d+)\]")


@dataclass(frozen=True)
class Range:
    """Values at the edge of a range: `inside` belong to it, `outside` do not; of real numbers NaN does not either."""

    inside: tuple
    outside: tuple


def parse(text: str) -> Range:
    """The range that `text` describes.

    Raises:
        ValueError: it is written in none of the forms above.
    """
    ranges = [_parse(alternative) for alternative in text.split(" or ")]
    return Range(sum((one.inside for one in ranges), ()), sum((one.outside for one in ranges), ()))


def wrong_part(value) -> str:
    """What a message has to mention of a value beyond its range: of a pair the number that lies outside."""
    return str(next(x for x in value if x != _MIDDLE) if isinstance(value, tuple) else value)


def _parse(main: str) -> Range:
    if main == "None":
        return Range((None,), ())
    if pair := _PAIR.fullmatch(main):
        one = _parse(pair[1])
        return Range(
            *(tuple(p for x in edge for p in ((x, _MIDDLE), (_MIDDLE, x))) for edge in (one.inside, one.outside))
        )
    if whole := _WHOLE.fullmatch(main):
        least = int(whole[2])
        return Range((least,), (least - 1,) if whole[1] == "int" else (least - 2, least + 1))
    if between := _BETWEEN.fullmatch(main):
        least, most = int(between[1]), int(between[2])
        return Range((least, most), (least - 1, most + 1))
    if interval := _INTERVAL.fullmatch(main):
        ends = ((interval[1] == "[", float(interval[2]), -math.inf), (interval[4] == "]", float(interval[3]), math.inf))
        inside = tuple(end for closed, end, _ in ends if closed)
        # The next float beyond an end that belongs to the range; an end that does not is itself the first beyond.
        beyond = (math.nextafter(end, away) if closed else end for closed, end, away in ends)
        outside = tuple(x for x, (closed, end, _) in zip(beyond, ends) if not (closed and math.isinf(end)))
        return Range(inside, (*outside, math.nan))
    try:
        words = ast.literal_eval(f"({main},)")
    except (SyntaxError, ValueError):
        words = ()
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"expected a range such as 'int >= 1', '[0, 1)' or \"'zeros', 'same'\", found {main!r}")
    return Range(words, ("no such choice",))
