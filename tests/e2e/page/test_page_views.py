"""A person looks at runs in a browser: curves, filters, an episode, and hostile text."""

import json

import pytest
from support.console.page_browser_support import ATTACK, MEGABYTE

LINES = "document.querySelector('.chart .plot')?.querySelectorAll('path.line:not(.raw)').length"


def test_two_runs_are_overlaid_smoothed_and_zoomed_by_keyboard(page):
    tab = page.open("runs", "tbody tr")
    for name in ("first", "second"):
        tab.check(f"#choose-{name}")
    tab.click("text=Compare 2 runs")
    page.wait_for(f"{LINES} === 2")
    first = tab.locator(".chart", has_text="Success rate")
    assert first.locator(".values").inner_text().split() == ["last", "20.0", "%", "20.0", "%"]
    assert tab.locator(".alarm title").first.text_content() == "first, step 12: mismatch. mean_k3 = 0.02"
    first.locator(".plot").focus()
    tab.keyboard.press("Home")
    assert first.locator(".values").inner_text().split()[:2] == ["1", "1.0"]
    tab.keyboard.press("+")
    assert "from=1&to=10.5" in page.route
    tab.locator("input[type=range]").fill("0.5")
    page.wait_for("document.querySelectorAll('.plot path.line.raw').length > 0")
    tab.keyboard.press("0")
    first.locator(".plot").focus()
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowRight")
    # (0.5 · 0.5 · 1 % + 0.5 · 2 %) / (0.5 · 0.5 + 0.5)
    assert first.locator(".values").inner_text().split()[:3] == ["2", "smoothed", "1.7"]
    tab.keyboard.press("+")
    first.get_by_role("button", name="Logarithmic axis: success rate").click()
    shared = page.route
    assert {"smooth=0.5", "log=success_rate"} <= set(shared.split("&"))
    page.open(shared, ".plot path.line.raw")
    assert first.get_by_role("button", name="Logarithmic axis: success rate").get_attribute("aria-pressed") == "true"


def test_alarms_are_marked_on_every_x_axis(page):
    tab = page.open("curves?runs=first&q=success&x=run_seconds", ".alarm")
    first = tab.locator(".chart").first

    def place():
        return first.locator(".alarm line").evaluate("mark => Number(mark.getAttribute('x1'))")

    by_time = place()  # step 12 ended after 24 s, of 2 to 40 s
    tab.get_by_label("x axis").select_option("step")
    page.wait_for(
        "document.querySelector('.chart .values .where').textContent !== '' && document.querySelector('.alarm')"
    )
    assert place() == pytest.approx(by_time, abs=0.5)  # the time of a step is 2 s everywhere
    tab.get_by_label("x axis").select_option("environment_steps")  # the run does not record them
    page.wait_for("!document.querySelector('.alarm')")


def test_the_x_axis_has_a_name(page):
    tab = page.open("curves?runs=first&q=success", ".plot text.axis")
    assert tab.locator(".plot text.axis").first.text_content() == "step"
    tab.get_by_label("x axis").select_option("run_seconds")
    page.wait_for("document.querySelector('.plot text.axis')?.textContent === 'training time (s)'")


def test_filters_select_the_episodes_that_the_server_finds(page, site):
    server, _ = site
    tab = page.open("episodes/first", "tbody tr")
    tab.get_by_label("Outcome").select_option("false")
    tab.get_by_label("Kind of task").select_option("hard")
    limits = {"invalid_min": 1, "invalid_max": 2, "turns_max": 2, "return_min": -5, "return_max": 5}
    for name, value in limits.items():
        kind, end = name.split("_")
        tab.get_by_label(f"{kind.capitalize()}, {end}imum").fill(str(value))
    tab.get_by_label("Text").fill("oops")
    query = "&".join(f"{name}={value}" for name, value in limits.items())
    wanted = server.ok(f"/api/runs/first/episodes?kind=hard&success=false&q=oops&{query}")
    assert wanted["total"] == 2
    page.wait_for("location.hash.includes('q=oops') && !document.querySelector('[aria-busy]')")
    assert set(query.split("&")) < set(page.route.partition("?")[2].split("&"))
    assert tab.locator("tbody th").all_inner_texts() == [each["id"] for each in wanted["episodes"]]
    tab.get_by_label("Text").fill("no such words")
    tab.wait_for_selector("text=No episode matches.")
    tab.get_by_role("button", name="Remove all filters").click()
    page.wait_for("document.querySelectorAll('tbody tr').length > 2")


def test_an_episode_is_scrubbed_and_a_visit_of_its_state_is_followed(page):
    tab = page.open("episode/first/t8.0.0/0", "main[data-turn='0']")
    tab.wait_for_selector("a.visit")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_selector("main[data-turn='1']")
    assert page.route == "episode/first/t8.0.0/1"
    assert tab.locator(".taken-action").inner_text() == "down"
    assert tab.locator(".actions .taken").inner_text().startswith("➜ down")
    assert tab.get_by_label("Tokens", exact=True).locator(".tok").count() == 3
    # Its ratio is above the range of the clip, and its advantage is positive: the clip stops the gradient.
    assert tab.locator(".tok sup").all_inner_texts() == ["▴■"]
    tab.get_by_label("Colour").select_option("ratio")
    assert "overlay=ratio" in page.route
    tab.locator(".token-text").focus()
    tab.keyboard.press("ArrowRight")
    figures = tab.locator(".token-detail").inner_text()
    assert "1.10000" in figures
    assert "1: in the loss" in figures
    tab.wait_for_selector("a.visit")
    tab.locator("a.visit").first.click()
    tab.wait_for_selector("h1:has-text('t8.0.1')")
    assert page.route.split("?")[0] == "episode/first/t8.0.1/1"


def test_groups_show_status_reason_and_advantages_of_siblings(page):
    tab = page.open("groups/first/8", ".group")
    assert tab.locator(".group").count() == 2
    used, dropped = tab.locator(".group").all()
    assert used.locator(".strip").first.get_attribute("aria-label") == "0.00, +0.25"
    assert used.locator(".strip").first.locator(".sign").all_text_contents() == ["0", "+"]
    assert "age 5 is above staleness = 1" in used.inner_text()
    assert "filtered" in dropped.locator("header").inner_text()
    tab.get_by_label("Status").select_option("filtered")
    page.wait_for("document.querySelectorAll('.group').length === 1")


def test_hostile_text_is_shown_as_text_and_long_text_in_parts(page):
    tab = page.open("episode/first/t12.1.0/0", "main[data-turn='0']")
    assert (
        "<script>window.attacked = 1</script>"
        in tab.get_by_label("Observation", exact=True).locator("pre").inner_text()
    )
    reply = tab.get_by_label("Reply", exact=True).locator("pre").inner_text()
    assert "␀␛[31m⟨U+202E⟩reversed" in reply
    tab.keyboard.press("ArrowRight")
    tab.wait_for_selector("main[data-turn='1']")
    tab.wait_for_selector(f"text=of {MEGABYTE:,} characters >> nth=0")
    tab.keyboard.press("ArrowLeft")
    tab.wait_for_selector("main[data-turn='0']")
    page.open("episodes/first?group=attack", "tbody tr")
    assert tab.locator("tbody .tag").first.inner_text() == "<b>kind</b>"
    assert tab.evaluate("window.attacked") is None
    assert "javascript:" not in json.dumps(tab.evaluate("[...document.links].map(link => link.href)"))
    assert ATTACK.startswith("<script>")


def test_rooms_are_drawn_and_format_errors_are_marked(page):
    tab = page.open("episode/first/t12.0.0/0", ".board")
    assert "box in row 3, column 3" in str(tab.locator(".board").first.get_attribute("aria-label"))
    tab.keyboard.press("End")
    tab.wait_for_selector("main[data-turn='1']")
    assert "player in row 2, column 1" in str(tab.locator(".board").first.get_attribute("aria-label"))


def test_shortcuts_are_listed_and_change_view_and_theme(page):
    tab = page.open("runs", "tbody tr")
    tab.keyboard.press("?")
    assert tab.get_by_role("dialog").inner_text().count("Go to") == 6
    tab.keyboard.press("Escape")
    tab.keyboard.press("e")
    tab.wait_for_selector("h1:has-text('Episodes')")
    page.wait_for("document.activeElement.tagName === 'H1'")
    tab.keyboard.press("t")
    tab.keyboard.press("t")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_errors_say_what_to_do(page):
    tab = page.open("episode/first/none/0", "[role=alert]")
    assert "no episode 'none'" in tab.locator("[role=alert]").inner_text()
    assert tab.get_by_role("button", name="Try again").is_visible()
    page.errors.clear()  # the browser itself reports the status 404
