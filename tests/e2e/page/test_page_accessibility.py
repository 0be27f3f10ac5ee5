"""axe-core finds no fault in any view: contrast, names, landmarks, headings, keyboard focus."""

import pytest
from support.console.page_browser_support import checked_tab

VIEWS = {
    "runs": "tbody tr",
    "run/first": "#summary",
    "curves?runs=first,second": ".plot path.line",
    "groups/first/8": ".group",
    "episodes/first": "tbody tr",
    "episode/first/t8.0.0/1": "a.visit",
    "episode/first/t12.0.0/0": ".board",
    "behaviour/first": ".flow",
    "play": ".play-form",
}
# Elements that take part in the order of Tab and are in view.
FOCUSABLE = "a[href], button:enabled, input:enabled, select, summary, [tabindex='0']"


def violations(tab):
    """The faults that axe-core finds, each with its first element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(tab).response["violations"]
    return [(each["id"], each["nodes"][0]["html"], each["nodes"][0]["failureSummary"]) for each in found]


def test_the_page_of_an_episode_has_no_fault(page):
    assert violations(page.open("episode/first/t8.0.0/1", "a.visit")) == []


def test_all_elements_are_reached_by_tab_and_show_their_focus(page):
    tab = page.open("groups/first/8", ".group")
    tab.evaluate("document.activeElement.blur()")
    wanted = tab.evaluate(
        f"[...document.querySelectorAll(`{FOCUSABLE}`)].filter(each => each.checkVisibility()).length"
    )
    seen = set()
    for _ in range(wanted):
        tab.keyboard.press("Tab")
        place, width = tab.evaluate(
            f"[[...document.querySelectorAll(`{FOCUSABLE}`)].indexOf(document.activeElement),"
            " parseFloat(getComputedStyle(document.activeElement).outlineWidth)]"
        )
        assert width >= 1
        seen.add(place)
    assert len(seen) == wanted


@pytest.mark.slow  # 36 pages: 40 s
@pytest.mark.timeout(600)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_no_view_has_a_fault_or_scrolls_sideways(browser, site, theme, width):
    server, _ = site
    address = f"http://127.0.0.1:{server.port}"
    with checked_tab(browser, address, color_scheme=theme, reduced_motion="reduce") as page:
        page.tab.set_viewport_size({"width": width, "height": 900})
        for route, ready in VIEWS.items():
            tab = page.open(route, ready)
            assert violations(tab) == [], (route, theme, width)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, (route, theme, width)
