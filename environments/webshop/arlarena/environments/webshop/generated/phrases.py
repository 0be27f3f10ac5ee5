"""Instructions of goals in human phrasing, in lower case and without the price limit."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from arlarena.environments.webshop.generated.words import ProductType, Words

ALIAS_SHARE = 0.5  # share of goals that name the type by an alias, not by its name in titles
PARAPHRASE_SHARE = 0.5  # share of attributes that are paraphrased
OPENINGS = (
    "i am looking for {thing}", "i'm looking for {thing}", "i need {thing}", "i want to buy {thing}", "find me {thing}",
    "can you help me find {thing}", "i would like {thing}", "looking for {thing}", "show me {thing}",
    "my sister needs {thing}", "please get me {thing}", "i am shopping for {thing}", "where can i get {thing}",
    "i want {thing}", "get me {thing}", "im searching for {thing}", "i'd like to purchase {thing}",
    "for my brother, i need {thing}", "we are after {thing}", "could you recommend {thing}",
)  # fmt: skip
PLAIN_OPENINGS = ("i am looking for {thing}", "i need {thing}", "find me {thing}")
# The options follow the thing directly (CLAUSES), or in a clause or sentence of their own (SENTENCES).
CLAUSES = ("{thing}, {options}", "{thing} {options}", "{thing}, preferably {options}", "{thing} that comes {options}")
SENTENCES = (
    "{thing}. i need it {options}", "{thing}. it has to come {options}", "{thing}. please pick one {options}",
    "{thing}, and i want it {options}", "{thing}; i would take it {options}",
)  # fmt: skip
COLORS = ("in the color {value}", "in {value}", "in {value} color", "of color {value}", "colored {value}")
SIZES = ("in size {value}", "in the size {value}", "of size {value}", "sized {value}")
OTHERS = ("with {axis} {value}", "in the {value} {axis}", "with the {axis} {value}", "in {axis} {value}")


class Phrases:
    """Writes instructions. `plain`: whether instructions have no paraphrases and only a few forms."""

    def __init__(self, words: Words, plain: bool = False) -> None:
        self._words, self._plain = words, plain
        self._types = {kind.query: kind for kind in words.types}

    def instruction(
        self, random: Random, query: str, attributes: Sequence[str], options: Sequence[tuple[str, str]]
    ) -> str:
        """Write an instruction for a product of the type with this query."""
        kind = self._types[query]
        if self._plain:
            parts = [kind.name.lower(), *attributes, *(f"{axis} {value}" for axis, value in options)]
            return random.choice(PLAIN_OPENINGS).format(thing=", ".join(parts))
        thing = self._thing(random, kind, attributes)
        text = random.choice(OPENINGS).format(thing=thing)
        if not options:
            return text
        asked = " and ".join(_option(random, *option) for option in random.sample(options, len(options)))
        return random.choice(random.choice((CLAUSES, SENTENCES))).format(thing=text, options=asked)

    def _thing(self, random: Random, kind: ProductType, attributes: Sequence[str]) -> str:
        """Return a type with its attributes, such as "a long lasting lip color that is not tested on animals"."""
        before: list[str] = []
        after: list[str] = []
        for attribute in attributes:
            spoken = self._words.attributes[attribute]
            if spoken.paraphrases and random.random() < PARAPHRASE_SHARE:
                after.append(random.choice(spoken.paraphrases))
            elif spoken.form == "is" and random.random() < 0.6:
                before.append(attribute)
            else:
                joined = {"is": "that is {}", "with": "with {}", "for": "for {}", "of": "made of {}"}[spoken.form]
                after.append(joined.format(attribute))
        name = random.choice(kind.aliases) if random.random() < ALIAS_SHARE else kind.name.lower()
        noun = " ".join([", ".join(before), name]).strip()
        clauses = " and ".join(after)
        if self._plural(name):
            clauses = clauses.replace("that is ", "that are ")
        return f"{self._article(random, noun, name)} {clauses}".strip()

    def _article(self, random: Random, noun: str, name: str) -> str:
        """Return a noun with its article."""
        if self._plural(name) or _head(name) in self._words.mass_words:
            return random.choice(("some {}", "{}")).format(noun)
        return f"an {noun}" if noun[0] in "aeiou" and not noun.startswith("usb") else f"a {noun}"

    def _plural(self, name: str) -> bool:
        head = _head(name)
        return head.endswith("s") and not head.endswith("ss") and head not in self._words.mass_words


def _head(name: str) -> str:
    """Return the main noun of a type's name. This word shows whether the name is singular, plural or uncountable."""
    for word in ("for", "with", "of", "to", "in", "under", "without", "against"):
        name = name.partition(f" {word} ")[0]
    return name.split()[-1]


def _option(random: Random, axis: str, value: str) -> str:
    forms = COLORS if axis == "color" else SIZES if axis == "size" else OTHERS
    return random.choice(forms).format(axis=axis, value=value)
