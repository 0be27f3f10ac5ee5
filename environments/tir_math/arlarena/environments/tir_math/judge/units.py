"""Units and other words after a number. An answer may lack its unit, but must not contradict the gold answer's unit."""

from __future__ import annotations

import re
from dataclasses import dataclass

# The names of each unit. Units that are not listed never contradict another unit.
_UNITS = {
    "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "dm": "dm", "km": "km kilometer kilometre",
    "m": "m meter metre", "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile",
    "g": "g gram gm", "kg": "kg kilogram", "mg": "mg", "lb": "lb lbs pound", "oz": "oz ounce", "ton": "ton",
    "s": "s sec second", "min": "min minute", "h": "h hr hour", "day": "day", "week": "week", "month": "month",
    "year": "year yr", "cent": "cent", "l": "l liter litre", "ml": "ml milliliter millilitre", "gal": "gal gallon",
    "acre": "acre", "mph": "mph", "rad": "rad radian", "am": "am", "pm": "pm",
}  # fmt: skip
_KNOWN = {word: unit for unit, words in _UNITS.items() for word in words.split()}
# Words that count as units even outside \text{…}. Single letters are excluded, because they may be variables.
_PLAIN = {word for word in _KNOWN if len(word) > 1} | {"units", "unit", "square", "sq", "cubic", "cu", "radians"}
# Words that change the value, such as "million" or "half". The value of such a text is not the number before the word.
_CHANGES = re.compile(
    r"^\W*(?:text\W*)?(?:squared|cubed)\b|\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|dozen|"
    r"hundred|thousand|million|billion|trillion|hal(?:f|ve)|third|quarter|fourth|fifth|sixth|tenth|hundredth|thousandth|"
    r"permille|mod|modulo|factorial|plus|minus|than|negative|not|false|wrong|maybe|approximately)s?\b"
)
_POWERS = {2: {"square", "squared", "sq", "2"}, 3: {"cubic", "cubed", "cu", "3"}}
_TEXT = re.compile(r"(?P<rest>.+?)(?P<words>(?:\s*\\text\{[^{}]*\}(?:\^\{[23]\})?)+)\.?")
_WORDS = re.compile(r"(?P<rest>.*(?:[\d)}°]|\\pi))\s?(?P<words>[A-Za-z][A-Za-z.]*(?: [A-Za-z.]+)*?)(?:\^\{[23]\})?")


@dataclass(frozen=True, slots=True)
class Unit:
    """A known unit and its power: "inches" is (in, 1), and "cubic inches" is (in, 3)."""

    name: str
    power: int


RADIANS = Unit("rad", 1)


def without_units(text: str) -> tuple[str, Unit | None]:
    r"""Remove the words after the number from a normalised text. Return (text, unit). `unit` is None if the unit is
    unknown or if no words were removed.

    Words that change the value, such as "million", are not removed. Other words are removed if they are in \text{…}, or
    if they are known units of at least two letters. Unknown words, such as "dogs", are removed if a space precedes them
    and the first word has at least three letters.

    >>> without_units(r"12\text{ square inches}")
    ('12', Unit(name='in', power=2))
    """
    found = _TEXT.fullmatch(text) or _WORDS.fullmatch(text)
    if found is None or _CHANGES.search(found["words"].lower()):
        return text, None
    if found["words"].lstrip()[0] == "\\":
        return found["rest"], _unit(found["words"])
    words = found["words"].lower().replace(".", "").split()
    known = all(word in _PLAIN or word.removesuffix("s") in _PLAIN for word in words)
    if known or (len(words[0]) > 2 and text[len(found["rest"])] == " "):
        return found["rest"], _unit(text[len(found["rest"]) :])
    return text, None


def _unit(text: str) -> Unit | None:
    bare = text.lower().replace(".", "").replace("\\text", "").replace("miles per hour", "mph")
    words = re.findall(r"[a-z]+|[23](?=\})", bare)
    power = next((power for power, names in _POWERS.items() if names & set(words)), 1)
    for word in words:
        for form in (word, word.removesuffix("s")):
            if form in _KNOWN:
                return Unit(_KNOWN[form], power)
    return None
