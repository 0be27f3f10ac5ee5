"""A reference for WebShop's observations. Like the original, it renders HTML and parses it with BeautifulSoup.

It follows the structure of the original's templates and the rules of the original's text environment. It is independent
of `arlarena.environments.webshop`: it recognises a page by its address, and takes the clickable elements from the
parsed page.
"""

from __future__ import annotations

import json
import re

from bs4 import BeautifulSoup
from bs4.element import Comment
from jinja2 import Environment

LAYOUT = """<!DOCTYPE html>
<html>
<head><title>unseen</title>
<style>unseen</style>
</head>
<body>
{% block body %}{% endblock %}
</body>
</html>
"""
INSTRUCTION = """<div id="instruction-text">
<h4>Instruction:<br>{{ instruction }}</h4>
</div>
"""
BACK = '<form>\n<button type="submit" class="btn btn-success">Back to Search</button>\n</form>\n'
PREV = '<form>\n<button type="submit" class="btn btn-primary">&lt; Prev</button>\n</form>\n'
NEXT = '<form>\n<button type="submit" class="btn btn-primary">Next &gt;</button>\n</form>\n'
SEARCH_PAGE = """<div>
<h2>WebShop</h2>
<h4>Instruction: <br>{{ instruction }}</h4>
<form>
<input id="search_input" type="text" name="search_query" required/>
<button class="btn btn-success" type="submit"><i class="icon"></i>Search</button>
</form>
</div>"""
RESULTS_PAGE = (
    INSTRUCTION
    + BACK
    + """<h3>Page {{ page }} (Total results: {{ total }})</h3>
{% if page > 1 %}"""
    + PREV
    + "{% endif %}"
    + NEXT
    + """{% for item in products %}
<div>
<img src="{{ item.image }}">
<h4 class="product-asin"><a class="product-link" href="/{{ item.asin }}">{{ item.asin }}</a></h5>
<h4 class="product-title">{{ item.title }}</h5>
<div>
<h5 class="product-price">{{ item.price_text }}</h6>
</div>
<!-- <h5>{{ item.category }}</h5> -->
</div>
{% endfor %}"""
)
ITEM_PAGE = (
    INSTRUCTION
    + BACK
    + PREV
    + """<img id="product-image" src="{{ item.image }}">
{% for name, values in item.options.items() %}
<div>
<h4>{{ name }}</h4>
<div class="radio-toolbar">
{% for value in values %}
<input type="radio" id="radio_{{ name }}{{ loop.index0 }}" name="{{ name }}" value="{{ value }}" data-url="/">
<label for="radio_{{ name }}{{ loop.index0 }}">{{ value }}</label>
{% endfor %}
</div>
</div>
{% endfor %}
<h2>{{ item.title }}</h2>
<h4>Price: {{ item.price_text }}</h4>
<h4>Rating: {{ "N.A." }}</h4>
{% for name in sub_pages %}
<form>
<button class="btn btn-primary" type="submit">{{ name }}</button>
</form>
{% endfor %}
<form>
<button type="submit" class="btn btn-lg purchase">Buy Now</button>
</form>
<script>let options = JSON.parse(`{{ options | tojson }}`);</script>"""
)
SUB_PAGE = {
    "Description": '<div>\n<p class="product-info">{{ item.description }}</p>\n</div>',
    "Features": """<ul>
{% for bullet in item.bullets %}
<li><p class="product-info"> {{ bullet }}</p></li>
{% endfor %}
</ul>""",
    "Reviews": "<div>\n</div>",
    "Attributes": """<ul>
{% for attribute in item.attributes %}
<li><p class="attribute"> {{ attribute }}</p></li>
{% endfor %}
</ul>
<h5 class="product-category">{{ item.category }}</h5>
<h5 class="product-query">{{ item.query }}</h5>
<h5 class="product-product_category">{{ item.product_category }}</h5>""",
}
DONE_PAGE = """<h1>Thank you for shopping with us!</h1>
<h3>Your code: </h3>
<p><pre>{{ none }}</pre> (Paste it in your MTurk interface.)</p>
<div style="display:none">
<h2>Purchased</h2>
<hr>
<h4 id="asin">asin<pre>{{ asin }}</pre></p>
<h4 id="options">options<pre>{{ options | tojson }}</pre></h4>
<h4>attrs<pre>{{ none }}</pre></h4>
<h4>category<pre>{{ none }}</pre></h4>
<h4>query<pre>{{ none }}</pre></h4>
<h4>product category<pre>{{ none }}</pre></h4>
<h2>Target</h2>
<hr>
<h4>asin<pre>{{ none.x }}</pre></p>
<h4>options<pre>{{ none.x }}</pre></h4>
<h4>attrs<pre>{{ none.x }}</pre></h4>
<h4>price upper<pre>{{ none.x }}</pre></h4>
<h4>instuction text<pre>{{ none.x }}</pre></h4>
<h4>category<pre>{{ none.x }}</pre></h4>
<h4>product category<pre>{{ none.x }}</pre></h4>
<h4>query<pre>{{ none.x }}</pre></h4>
<h4>Goal <div id="goal"><pre>{{ none | pprint }}</pre></div></h4>
<h2>Reward</h2>
</div>
<hr>
<h3 id="reward">Your score (min 0.0, max 1.0)<pre>{{ reward }}</pre></h3>
<h4 hidden>Reward Details <div id="reward_info"><pre>{{ details | pprint }}</pre></div></h4>
"""
_JINJA = Environment(autoescape=True)
_TEMPLATES = {
    name: _JINJA.from_string(LAYOUT.replace("{% block body %}{% endblock %}", body))
    for name, body in {
        "search": SEARCH_PAGE,
        "results": RESULTS_PAGE,
        "item": ITEM_PAGE,
        "done": DONE_PAGE,
        **{name: INSTRUCTION + BACK + PREV + body for name, body in SUB_PAGE.items()},
    }.items()
}
_HIDDEN = {"style", "script", "head", "title", "meta", "[document]"}


class ReferenceShop:
    """One session of the original's simulated server and browser. `reward` is None before the purchase."""

    def __init__(self, catalogue, instruction, score, show_attributes=False):
        """`score`: function from a product number and the chosen options to the score of the purchase."""
        self.catalogue, self.instruction, self._score = catalogue, instruction, score
        self._sub_pages = list(SUB_PAGE)[: 4 if show_attributes else 3]
        self.reward = None
        self._index()

    def step(self, action):
        """Play an action. Return whether the action was valid."""
        match = re.match(r"(.+)\[(.+)\]", action)
        name, argument = match.groups() if match else (action, None)
        argument = argument and argument.lower()
        found = self.clickables()
        if name == "search" and argument:
            self._search(argument.split(" "), 1)
        elif name == "click" and argument in found and argument != "search":
            self._click(argument, found[argument])
        else:
            return False
        return True

    def clickables(self):
        """Return the clickable elements of the parsed page: name → element."""
        page = self._parsed
        found = {
            tag.get_text().lower(): tag for tag in page.find_all(class_="btn") + page.find_all(class_="product-link")
        }
        for tag in page.select('input[type="radio"]'):
            found[tag.get("value")] = tag
        return found

    def text(self, form):
        """Return the observation of the parsed page. `form`: "text" or "rich"."""
        strings = self._parsed.find_all(string=True)
        seen = [s for s in strings if s.parent.name not in _HIDDEN and not isinstance(s, Comment) and s != "\n"]
        if form == "text":
            return " [SEP] ".join(string.strip() for string in seen)
        whole = ""
        for string in seen:
            line = str(string)
            if string.parent.name == "button":
                line = f"[button] {string} [button_]"
            elif string.parent.name == "label" and f'"{string}"' in self.url:
                line, whole = f"  [clicked button] {string} [clicked button_]", f"You have clicked {string}.\n{whole}"
            elif string.parent.name == "label":
                line = f"  [button] {string} [button_]"
            elif string.parent.get("class") == ["product-link"]:
                word = "clicked button" if str(string) in self.visited else "button"
                line = f"\n[{word}] {string} [{word}_]"
            whole += line + "\n"
        return whole

    def _render(self, template, **values):
        item = None if self.asin is None else self.catalogue.product(self.catalogue.number(self.asin))
        html = _TEMPLATES[template].render(
            instruction=self.instruction, item=item, options=self.options, sub_pages=self._sub_pages, **values
        )
        self._parsed = BeautifulSoup(html, "html.parser")

    def _index(self):
        self.url, self.words, self.page, self.asin = "http://shop/session", None, None, None
        self.options, self.visited = {}, set()
        self._render("search")

    def _search(self, words, page):
        self.words, self.page, self.asin, self.options = words, page, None, {}
        hits = self.catalogue.search(" ".join(words))
        products = [self.catalogue.product(number) for number in hits][(page - 1) * 10 : page * 10]
        self.url = f"http://shop/results/session/{'+'.join(words)}/{page}"
        self._render("results", page=page, total=len(hits), products=products)

    def _item(self, name, tag):
        if "product-link" in (tag.get("class") or ()):
            self.asin = name.upper()
            self.visited.add(self.asin)
        elif tag.get("name") is not None:
            self.options[tag["name"].lower()] = name
        self.url = f"http://shop/item/session/{self.asin}/{'+'.join(self.words)}/{self.page}/{json.dumps(self.options)}"
        self._render("item")

    def _click(self, name, tag):
        place = self.url.split("/")[3]
        sub_page = next((one for one in SUB_PAGE if one.lower() == name), None)
        if name == "buy now":
            self.reward = self._score(self.catalogue.number(self.asin), self.options)
            self._render("done", none=None, asin=self.asin, reward=self.reward, details=None)
        elif name == "back to search":
            self._index()
        elif name in ("next >", "< prev") and place == "results":
            self._search(self.words, self.page + (1 if name == "next >" else -1))
        elif name == "< prev" and place == "item":
            self._search(self.words, self.page)
        elif sub_page and name != "< prev":
            self.url = f"http://shop/sub_page/session/{self.asin}/{sub_page}/{self.options}"
            self._render(sub_page)
        else:
            self._item(name, tag)
