"""Builds HTML from elements. Every text is escaped, unless it is `Html` already."""

from __future__ import annotations

import html

# Invisible characters that a page does not show: controls (except tab and line end), direction controls, soft hyphens,
# zero-width characters, and lone surrogates. Lone surrogates cannot be encoded.
_INVISIBLE = dict.fromkeys(
    (
        *(*range(0x00, 0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0xAD, 0x61C, *range(0x200B, 0x2010)),
        *(*range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFC), *range(0xD800, 0xE000)),
        *(0xFFFE, 0xFFFF),
    )
)
_VOID = frozenset({"input", "meta", "link", "img", "br"})


class Html(str):
    """A text that is already HTML: a constant of this package, or a result of `element`, `text` or `join`."""

    __slots__ = ()


Content = Html | str | None


def text(value: str) -> Html:
    """Return a text as HTML, without invisible characters."""
    return value if isinstance(value, Html) else Html(html.escape(value.translate(_INVISIBLE)))


def join(*content: Content) -> Html:
    """Concatenate the contents as HTML. Escapes plain text and skips None."""
    return Html("".join([text(part) for part in content if part is not None]))


def element(tag: str, /, *content: Content, **attributes: str | int | bool | None) -> Html:
    """Return an element.

    `attributes`: an attribute with the value None or False is left out. An attribute with the value True is written
    without a value. In names, underscores at the end are removed (`class_` becomes `class`), and other underscores
    become hyphens (`aria_label` becomes `aria-label`).
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{text(str(value))}"')
    start = f"<{tag}{''.join(written)}>"
    return Html(start if tag in _VOID else f"{start}{join(*content)}</{tag}>")
