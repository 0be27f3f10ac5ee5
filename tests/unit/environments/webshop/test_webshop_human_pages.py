"""The HTML of the shop for people: hostile texts cannot break out, and pictures fit the products."""

import re

import msgspec
import pytest
from bs4 import BeautifulSoup
from support.environments.webshop_human import human_shop, people
from support.environments.webshop_support import MemoryCatalogue, goals_of, product, shop_environment

from arlarena.environments.webshop.human.markup import element, text
from arlarena.environments.webshop.human.pictures import icon_name, picture
from arlarena.environments.webshop.human.record import load_episodes

ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)><svg onload=alert(2)>',
    "'><a href='javascript:alert(1)' onclick='alert(2)' style='color:red'>x</a>",
    "</button></form></main></body></html><form action=//evil.example><button>x",
    "&lt;script&gt;&#60;script&#62;<!-- --><![CDATA[ ]]>\x00\x1b[31m\u202egnp.exe\u2028\ufeff",
    "{{7*7}}${7*7}<%= 7 %>\r\n\r\nSet-Cookie: a=b",
    "x" * 50_000,
]
TAGS = {
    "html", "head", "meta", "title", "link", "body", "header", "div", "span", "b", "form", "input", "button",
    "progress", "section", "h1", "h2", "h3", "p", "main", "nav", "ol", "ul", "li", "q", "article", "fieldset", "legend",
    "small", "label", "details", "summary", "svg", "path", "rect", "circle", "ellipse",
}  # fmt: skip


def assert_harmless(response):
    soup = BeautifulSoup(response.text, "html.parser")
    assert {tag.name for tag in soup.find_all(True)} <= TAGS
    names = {name for tag in soup.find_all(True) for name in tag.attrs}
    assert not [name for name in names if name.startswith("on") or name in ("style", "src")]
    assert {form["action"] for form in soup.find_all("form")} <= {"/act", "/next", "/start"}
    assert [link["href"] for link in soup.find_all("link")] == ["data:,", "/style.css"]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff]", response.text)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script" not in policy


def hostile_environment(attack):
    changes = {
        "asin": f"A{attack}"[:100], "title": f"Lotion {attack}", "description": attack, "bullets": [attack, "x"],
        "price_text": attack[:200], "options": {attack: [attack, "red"]}, "attributes": [attack], "category": attack,
        "query": attack, "product_category": attack, "image": f"javascript:{attack}",
    }  # fmt: skip
    products = [product(0, **changes), product(1)]
    goals = [msgspec.structs.replace(goal, instruction=f"buy {attack}") for goal in goals_of(products[:1])]
    return shop_environment(MemoryCatalogue(products, {"train": goals, "validation": goals, "test": goals}),
                            show_attributes=True)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
async def test_hostile_products_and_searches_cannot_break_out(tmp_path, attack):
    shop = human_shop(tmp_path, hostile_environment(attack))
    async with people(shop) as (person,):
        await person.start()
        assert_harmless(person.response)
        await person.search(f"lotion {attack}")
        assert_harmless(person.response)
        assert person.steps == 1
        card = next(one for one in person.soup.find_all(class_="card") if "Lotion" in one.get_text())
        if not card.has_attr("disabled"):
            place = {"episode": "1", "step": "1", "click": card["value"]}
            await person.post("/act", **place)
            assert_harmless(person.response)
            for label in ("red", "Description", "Back to product", "Features", "Back to product", "Attributes"):
                await person.press(label)
                assert_harmless(person.response)
            await person.press("Back to product")
            await person.press("Buy now")
            assert_harmless(person.response)
            (episode,) = load_episodes(tmp_path / "episodes.jsonl")
            assert all(turn.action_valid and turn.format_valid for turn in episode.turns)


@pytest.mark.parametrize(
    ("words", "action"),
    [
        ("Red  Shoes", "search[Red Shoes]"),
        ("a]b[c", "search[a b c]"),
        ("<b>", "search[<b>]"),
        ("</action><action>buy", "search[ /action  action buy]"),
        ("<think>x", "search[ think x]"),
        ("a\x00b\nc", "search[a b c]"),
        ("y" * 900, f"search[{'y' * 300}]"),
    ],
)
async def test_a_search_is_one_valid_action_whatever_the_text(tmp_path, words, action):
    shop = human_shop(tmp_path)
    async with people(shop) as (person,):
        await person.start()
        await person.search(words)
        state = shop.visitors.find(person.client.cookies["webshop"]).visit.state
        assert (state.metadata.action, state.observation.action_valid) == (action, True)


async def test_a_name_that_no_action_can_have_is_a_disabled_button(tmp_path):
    options = {"a": ["f[g", "h\ni", "</action>", "fine"], "b": ["cr\rlf", " padded "]}
    products = [product(0, options=options)]
    goals = goals_of([product(0)])
    catalogue = MemoryCatalogue(products, {"train": goals, "validation": goals, "test": goals})
    shop = human_shop(tmp_path, shop_environment(catalogue))
    async with people(shop) as (person,):
        await person.start()
        await person.search("lotion")
        await person.press("A0000")
        buttons = person.soup.find_all("button", class_="option")
        assert [one.has_attr("disabled") for one in buttons] == [True, True, True, False, False, False]
        for label, value in (("cr", "cr\rlf"), ("padded", " padded ")):
            await person.press(label)
            assert shop.visitors.find(person.client.cookies["webshop"]).visit.game.place.options == {"b": value}


def test_every_text_and_every_attribute_is_escaped():
    assert element("p", "<b>&\"'", title="\"'<>") == ('<p title="&quot;&#x27;&lt;&gt;">&lt;b&gt;&amp;&quot;&#x27;</p>')
    assert element("p", element("b", "x"), hidden=True, id=None) == "<p hidden><b>x</b></p>"
    assert text("a\x00\u202eb\ud800c\td") == "abc\td"


@pytest.mark.parametrize(
    ("query", "title", "category", "icon"),
    [
        ("rain boots", "X", "fashion", "boot"), ("coffee tables", "Oak", "garden", "table"),
        ("", "Velvet Sofa", "garden", "sofa"), ("", "Something", "grocery", "snack"), ("", "?", "unknown", "box"),
        ("", "", "beauty", "beauty"),
    ],
)  # fmt: skip
def test_a_drawing_fits_the_products_name_and_category(query, title, category, icon):
    assert icon_name(product(1, query=query, title=title, category=category)) == icon


def test_a_chosen_colour_colours_the_drawing():
    chair = product(1, query="chairs", title="Chair")
    assert 'color="#cf3b3b"' in picture(chair, ["large", "red"])
    assert 'color="#3f78c9"' in picture(chair, ["light blue"])
    assert picture(chair) == picture(chair)


def test_remote_images_need_the_option():
    shoe = product(1, image="https://images.example/a.jpg", option_images={"red": "https://images.example/red.jpg"})
    assert "<svg" in picture(shoe)
    assert 'src="https://images.example/red.jpg"' in picture(shoe, ["red"], remote=True)
    assert "<svg" in picture(product(1, image="javascript:alert(1)"), remote=True)
