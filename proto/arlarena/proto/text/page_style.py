"""The style that all HTML reports share."""

from __future__ import annotations

from importlib import resources


def page_style() -> str:
    """Returns the style sheet, for the element `style` of a page."""
    return (resources.files(__package__) / "page_style.css").read_text(encoding="utf-8")
