"""A shop with the same work per step as the original WebShop: Flask renders a page, BeautifulSoup parses it twice.

The original WebShop renders a page with `render_template_string`. It parses the page for the clickable elements, and
again for the text of the observation. The templates of this shop come from this repository's tests. They are not the
original templates, but have the same structure.
"""

from __future__ import annotations

import sys
from typing import Any

from bs4 import BeautifulSoup
from flask import Flask, render_template_string

from benchmarks.support.paths import ROOT

sys.path.append(str(ROOT / "tests"))
from support.environments import webshop_reference as reference  # needs the path above

APP = Flask("shop")
_BODIES = {
    "search": reference.SEARCH_PAGE,
    "results": reference.RESULTS_PAGE,
    "item": reference.ITEM_PAGE,
    "done": reference.DONE_PAGE,
    **{name: reference.INSTRUCTION + reference.BACK + reference.PREV + b for name, b in reference.SUB_PAGE.items()},
}
TEMPLATES = {name: reference.LAYOUT.replace("{% block body %}{% endblock %}", body) for name, body in _BODIES.items()}


class FlaskShop(reference.ReferenceShop):
    """One session of the shop that uses Flask and BeautifulSoup."""

    def step_and_observe(self, action: str) -> str:
        """Play an action. Return the text of the new page."""
        self.step(action)
        return self.observe()

    def observe(self) -> str:
        """Parse the current page with BeautifulSoup. Return its text."""
        self._parsed = BeautifulSoup(self._html, "html.parser")
        text: str = self.text("text")
        return text

    def clickables(self) -> dict[str, Any]:
        """Parse the current page with BeautifulSoup. Return its clickable elements: name → element."""
        self._parsed = BeautifulSoup(self._html, "html.parser")
        found: dict[str, Any] = super().clickables()
        return found

    def _render(self, template: str, **values: Any) -> None:
        item = None if self.asin is None else self.catalogue.product(self.catalogue.number(self.asin))
        with APP.test_request_context():
            self._html = render_template_string(
                TEMPLATES[template],
                instruction=self.instruction,
                item=item,
                options=self.options,
                sub_pages=self._sub_pages,
                **values,
            )
