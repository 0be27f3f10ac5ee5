"""The HTML page of an evaluation."""

import pytest
from bs4 import BeautifulSoup
from support.environments.browser_support import browser_path, open_tab
from support.evaluation.recorded import (
    HOSTILE,
    environment_of,
    plan_of,
    png,
    record_of,
    small_evaluation,
    summarise,
    turn_of,
    write_evaluation,
)

from arlarena.proto.text.wording import printable
from arlarena.rollout.evaluation.directory import read_evaluation
from arlarena.rollout.evaluation.report.html_page import render, write_page
from arlarena.rollout.evaluation.report.page_data import cut, fair_limit, text_size
from arlarena.rollout.evaluation.report.prices import read_prices


def page_of(directory, **options):
    return render(read_evaluation(directory), summarise, read_prices().price("openai/gpt-5"), **options)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return page_of(small_evaluation(tmp_path_factory.mktemp("page") / "e"))


def test_the_page_has_no_script_and_no_external_resource(page):
    soup = BeautifulSoup(page, "html.parser")
    assert not soup.find_all(["script", "link", "iframe", "object", "form", "base"])
    assert {tag["src"][:22] for tag in soup.find_all(src=True)} == {"data:image/png;base64,"}
    assert not soup.find_all(href=True)
    assert not [name for tag in soup.find_all() for name in tag.attrs if name.startswith("on")]
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_hostile_text_is_shown_as_text_with_control_characters_escaped(page):
    soup = BeautifulSoup(page, "html.parser")
    assert sum(one.text == printable(HOSTILE) for one in soup.select("pre.reply")) == 16
    assert "\x1b" not in page
    assert "\u202e" not in page


@pytest.mark.parametrize(
    "place", ["model", "kind", "task_id", "error", "metrics", "observation", "final", "set", "image"]
)
def test_every_text_of_the_records_is_escaped(tmp_path, place):
    evil = "<script>alert(1)</script>\u202e"
    changes = {
        "kind": {"kind": evil}, "task_id": {"task_id": evil}, "error": {"error": evil, "status": "policy_error"},
        "metrics": {"metrics": {evil: 1.0}}, "observation": {"turns": [turn_of(evil, evil, action=evil)]},
        "final": {"final_observation": evil}, "image": {"turns": [turn_of(images=(evil,))]},
    }.get(place, {})  # fmt: skip
    plan = plan_of(environment_of(set_name=evil if place == "set" else ""), model=evil if place == "model" else "a/b")
    page = page_of(write_evaluation(tmp_path / "e", plan, [record_of(**changes), record_of(index=1, kind="x")]))
    assert "<script" not in page
    assert "\u202e" not in page
    if place != "image":
        assert "&lt;script&gt;alert(1)" in page


def test_a_secret_in_a_text_is_masked(tmp_path):
    key = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD"
    records = [record_of(status="model_error", error=f"Authorization: Bearer {key}")]
    assert key not in page_of(write_evaluation(tmp_path / "e", plan_of(environment_of()), records))


def test_the_tables_show_intervals_kinds_and_behaviour(page):
    soup = BeautifulSoup(page, "html.parser")
    rows = [[cell.text.strip() for cell in row.find_all("td")] for row in soup.select("table tr")]
    results = read_rows(rows, "sokoban")
    assert results[1:6] == ["8", "2", "16", "31.2", results[5]]
    assert " to " in results[5]
    assert read_rows(rows, "look")[1:5] == ["3", "2", "5", "100.0"]
    assert read_rows(rows, "repeated actions")[1:] == ["1", "1"]
    assert "$0.1120" in soup.select_one(".headline").text
    assert "Not scored: 1 infrastructure error." in soup.text


def read_rows(rows, name):
    return next(row for row in rows if row and row[0] == name)


def test_an_unfinished_evaluation_says_so(tmp_path):
    page = page_of(write_evaluation(tmp_path / "e", plan_of(environment_of()), [record_of()]))
    assert "1 of 12 attempts are finished" in page


def test_an_unknown_price_is_not_zero(tmp_path):
    directory = write_evaluation(tmp_path / "e", plan_of(environment_of()), [record_of()])
    page = render(read_evaluation(directory), summarise, None)
    assert "The price of this model is unknown" in page
    assert "$0" not in page


def test_the_page_stays_below_its_limit_and_only_large_attempts_are_truncated(tmp_path):
    small = [record_of(index=index) for index in range(20)]
    huge = [
        record_of(index=20, turns=[turn_of("<" * 400_000, "'" * 300_000)]),
        record_of(index=21, turns=[turn_of() for _ in range(3_000)]),
        record_of(index=22, turns=[turn_of(images=("a.png",)), turn_of(images=("big.png",))], error="e" * 300_000),
    ]
    big = png() + b"\0" * 500_000
    plan = plan_of(environment_of(indices=range(23)), attempts=1)
    directory = write_evaluation(tmp_path / "e", plan, small + huge, {"a.png": png(), "big.png": big})
    full, bounded = page_of(directory, budget=100_000_000), page_of(directory, budget=300_000)
    assert len(full) > 3_000_000
    assert "Shortened for this page" not in full
    frame = len(page_of(write_evaluation(tmp_path / "f", plan, [])))
    assert len(bounded.encode()) < 300_000 + frame
    details = BeautifulSoup(bounded, "html.parser").select(".attempts details")
    assert [("Shortened" in one.text) for one in details] == [False] * 20 + [True] * 3
    assert "2 texts shortened" in details[20].text
    assert "turns left out" in details[21].text
    assert "1 image left out" in details[22].text


def test_more_attempts_than_fit_are_announced(tmp_path):
    records = [record_of(index=index) for index in range(60)]
    directory = write_evaluation(tmp_path / "e", plan_of(environment_of(indices=range(60)), attempts=1), records)
    page = page_of(directory, budget=30_000)
    assert "The page shows the first 25 attempts of 60" in page
    assert len(BeautifulSoup(page, "html.parser").select(".attempts details")) == 25


def test_fair_limit_cuts_only_the_largest():
    assert fair_limit([10, 20, 30], 100) >= 30
    assert fair_limit([10, 20, 300, 400], 130) == 50
    assert fair_limit([], 10) == 0
    for sizes, budget in (([5, 5, 5], 7), ([1, 100, 1_000], 300), ([9], 3)):
        limit = fair_limit(sizes, budget)
        assert sum(min(size, limit) for size in sizes) <= budget
        assert sum(min(size, limit + 1) for size in sizes) > budget


def test_cut_keeps_the_start_and_counts_the_rest():
    text = "<" * 100
    short = cut(text, 40)
    assert short == "<" * 10 + " … [90 characters left out]"
    assert cut(text, text_size(text)) == text


@pytest.mark.skipif(browser_path() is None, reason="no Chromium: other tests check the page's text")
def test_in_a_browser_no_hostile_code_runs_the_filter_works_and_a_phone_needs_no_sideways_scrolling(tmp_path):
    results = read_evaluation(small_evaluation(tmp_path / "e"))
    write_page(results, tmp_path / "report.html", summarise)
    shown = "[...document.querySelectorAll('.attempts details')].filter(one => one.offsetHeight > 0).length"
    with open_tab((tmp_path / "report.html").as_uri()) as tab:
        assert tab.value("document.title") == "openai/gpt-5 · ARLArena"
        assert tab.value(shown) == 40
        tab.value("document.querySelector('label[for=show-infra_error]').click()")
        assert tab.value(shown) == 1
        tab.value("document.querySelector('label[for=show-policy_error]').click()")
        assert tab.value(shown) == 2
        tab.resize(390, 900)
        assert tab.value("document.documentElement.scrollWidth") == 390
