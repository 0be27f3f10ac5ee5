"""A person without a mouse, or with a narrow window: keys scroll a focused block or are shortcuts of the view."""

import pytest
from support.console.page_browser_support import checked_tab


@pytest.fixture
def narrow(browser, site):
    """A tab as wide as a phone, in which tables scroll."""
    server, _ = site
    with checked_tab(browser, f"http://127.0.0.1:{server.port}") as page:
        page.tab.set_viewport_size({"width": 390, "height": 700})
        yield page


def test_arrow_keys_scroll_a_focused_table_and_otherwise_change_the_step(narrow):
    tab = narrow.open("groups/first/8", ".group .scroll.more")
    block = tab.locator(".group .scroll").first
    block.focus()
    tab.keyboard.press("ArrowRight")
    narrow.wait_for("document.querySelector('.group .scroll').scrollLeft > 0")
    assert narrow.route == "groups/first/8"
    tab.locator("h1").focus()
    tab.keyboard.press("ArrowLeft")
    narrow.wait_for("location.hash === '#/groups/first/4'")


def test_the_edge_of_a_table_shows_whether_it_has_more(narrow):
    tab = narrow.open("groups/first/8", ".group .scroll.more")
    block = tab.locator(".group .scroll").first
    block.evaluate("block => { block.scrollLeft = block.scrollWidth; }")
    narrow.wait_for("!document.querySelector('.group .scroll').classList.contains('more')")


def test_the_end_key_scrolls_a_long_text_and_otherwise_goes_to_the_last_turn(page):
    tab = page.open("episode/first/t12.1.0/1", "main[data-turn='1']")
    text = tab.get_by_label("Reply", exact=True).locator("pre")
    text.focus()
    tab.keyboard.press("Home")
    assert page.route == "episode/first/t12.1.0/1"
    tab.locator("h1").focus()
    tab.keyboard.press("Home")
    tab.wait_for_selector("main[data-turn='0']")


def test_escape_closes_the_menu_of_runs(page):
    tab = page.open("curves?runs=first", ".plot path.line")
    summary = tab.locator(".menu > summary")
    summary.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".menu[open]")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Escape")
    assert tab.locator(".menu[open]").count() == 0
    assert summary.evaluate("summary => summary === document.activeElement")


def test_a_narrow_list_of_runs_has_a_heading_for_each_cell(narrow):
    tab = narrow.open("runs", "tbody tr")
    shown = "[...document.querySelector({!r}).children].filter(cell => cell.checkVisibility()).length"
    assert tab.evaluate(shown.format("thead tr")) == tab.evaluate(shown.format("tbody tr")) > 4
