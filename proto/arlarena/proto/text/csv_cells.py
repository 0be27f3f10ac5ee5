"""Makes text safe for the cells of a CSV file, in case a spreadsheet opens the file."""

from __future__ import annotations

from arlarena.proto.text.wording import printable

# A spreadsheet evaluates a cell that starts with one of these characters
# (https://owasp.org/www-community/attacks/CSV_Injection); the last four are their full-width forms.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def neutral(text: str) -> str:
    """Returns `text` in a form that is safe in a CSV cell: an apostrophe precedes a formula, and control characters are
    escaped.
    """
    shown = printable(text)
    return f"'{shown}" if shown.startswith(FORMULA_STARTS) or shown.lstrip().startswith(FORMULA_STARTS) else shown
