"""Titles, descriptions and bullets of generated products."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from arlarena.environments.webshop.generated.options import Texts
from arlarena.environments.webshop.generated.words import ProductType, Words, load_words

TITLES = (
    "{brand} {filler} {name}, {first} {second} {name} for {use}{value}",
    "{brand} {name} for {use}, {first}, {second}{value}",
    "{name} by {brand} - {first}, {second} - {filler} {name} for {use} and {use2}{value}",
    "{first} {name} for {use}, {second}, {brand}{value}",
    "{brand} {name}{value} {first} and {second}, {filler} Choice for {use}",
    "{filler} {name} {first}, for {use} and {use2}, {second} by {brand}{value}",
)
# Each of these bullets is about one attribute. The search covers only the first bullet of a product.
BULLETS = (
    "{attribute}: a detail that buyers of our {name} ask for again and again.",
    "Why {brand}? Because of details such as {attribute}, checked by hand before we ship.",
    "What sets it apart: {attribute}. You will notice on the first day.",
    "{attribute}, so that you can rely on it for {use}.",
    "Good to know: {attribute}. We have worked on this for three years.",
)
GENERAL_BULLETS = (
    "Please compare the options on this page before you order, as they cannot be changed afterwards.",
    "Our service answers within a day, and you may send the {name} back within a month.",
    "Made for {use} and {use2}, and a thoughtful present for people who have everything.",
    "Every order is packed with paper, and leaves our warehouse within two days.",
    "From the workshop of {brand}, a family business in its third generation.",
)
DESCRIPTIONS = (
    "The {name} by {brand} was made with {use} in mind. {last}. We have kept what works and left out the rest.",
    "Years of letters from customers went into this {name}. {last}. Whether for {use} or for {use2}, it does its part.",
    "{brand} presents a {name} for {use}. {last}. Look at the options to find the one that suits you.",
    "Some things should simply work. This {name} was thought through for {use2}. {last}.",
)
LAST = ("It comes with these qualities: {attributes}", "Details: {attributes}", "In short, {attributes}")


@dataclass(frozen=True, slots=True)
class Looks:
    """Random numbers in [0, 1) that determine the wording of a family's texts, and the family's filler word."""

    title: float
    use: float
    value: float
    bullets: tuple[float, float, float]
    description: float
    filler: str


@dataclass(frozen=True, slots=True)
class ProductTexts:
    """The texts of a product. `nouns`: the nouns of the title."""

    title: str
    description: str
    bullets: list[str]
    nouns: list[str]


def draw_looks(random: Random, words: Words) -> Looks:
    """Draw the random numbers and the filler word for the texts of a family."""
    return Looks(
        random.random(),
        random.random(),
        random.random(),
        (random.random(), random.random(), random.random()),
        random.random(),
        random.choice(words.fillers),
    )


def describe(
    kind: ProductType,
    brand: str,
    attributes: tuple[str, ...],
    options: dict[str, list[str]],
    looks: Looks,
    texts: Texts,
) -> ProductTexts:
    """Return the texts of a product, which together name all its attributes.

    In full texts, the title names two attributes. Half of the titles also name a value of an option. The other
    attributes are in the bullets and in the description.
    """
    if texts == "short":
        return _short(kind, attributes)
    used = int(looks.use * len(kind.uses))
    fields = {
        "brand": brand,
        "name": kind.name,
        "filler": looks.filler,
        "use": kind.uses[used],
        "use2": kind.uses[used - 1],
        "first": attributes[0].title(),
        "second": attributes[1].title(),
    }
    form = _pick(TITLES, looks.title)
    nouns = load_words().nouns(form.format_map({**fields, "value": ""}))
    title = form.format_map({**fields, "value": _shown_value(options, looks.value)})
    fields["name"], fields["use"], fields["use2"] = (fields[key].lower() for key in ("name", "use", "use2"))
    return ProductTexts(title, _description(attributes, fields, looks), _bullets(attributes, fields, looks), nouns)


def _short(kind: ProductType, attributes: tuple[str, ...]) -> ProductTexts:
    title = ", ".join((kind.name.lower(), *attributes))
    return ProductTexts(title, title, [", ".join(attributes)], load_words().nouns(title))


def _shown_value(options: dict[str, list[str]], drawn: float) -> str:
    """Return a value of the first axis, as the end of a title. Return "" if the product has no options, and for half of
    the numbers `drawn`.
    """
    if not options or drawn < 0.5:
        return ""
    values = next(iter(options.values()))
    return f" ({values[int((drawn - 0.5) * 2 * len(values))].title()})"


def _bullets(attributes: tuple[str, ...], fields: dict[str, str], looks: Looks) -> list[str]:
    """Return a bullet about the third attribute, one about the fourth attribute if there is one, and two general
    bullets.
    """
    forms = [BULLETS[(int(looks.bullets[0] * len(BULLETS)) + shift) % len(BULLETS)] for shift in (0, 1)]
    own = [
        _sentence(form.format_map({**fields, "attribute": one}))
        for form, one in zip(forms, attributes[2:4], strict=False)
    ]
    start = int(looks.bullets[1] * len(GENERAL_BULLETS))
    general = [GENERAL_BULLETS[(start + shift) % len(GENERAL_BULLETS)].format_map(fields) for shift in (0, 1)]
    first = general.pop() if looks.bullets[2] < 0.4 else own.pop(0)
    return [first, general.pop(), *own, *general]


def _description(attributes: tuple[str, ...], fields: dict[str, str], looks: Looks) -> str:
    rest = " and ".join(attributes[4:])
    last = _pick(LAST, looks.use).format(attributes=rest) if rest else "It is made to be used"
    return _sentence(_pick(DESCRIPTIONS, looks.description).format_map({**fields, "last": last}))


def _pick(forms: tuple[str, ...], drawn: float) -> str:
    return forms[int(drawn * len(forms))]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
