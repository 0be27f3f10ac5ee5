"""The style sheet of all HTML reports."""

from __future__ import annotations

from importlib import resources


def page_style() -> str:
    """Returns the CSS text for a page's `style` element."""
    return (resources.files(__package__) / "page_style.css").read_text(encoding="utf-8")
