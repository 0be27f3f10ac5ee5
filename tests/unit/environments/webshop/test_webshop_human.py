"""The shop as web pages: episodes, forms that come twice or late, sessions, and access."""

import pytest
from support.environments.webshop_human import BASE, human_shop, people
from support.environments.webshop_support import shop_environment

from arlarena.environments.webshop.human.record import load_episodes
from arlarena.environments.webshop.human.visit_service import NO_BUTTON, NO_WAY_BACK, NO_WORDS, NOT_OVER, STALE
from arlarena.proto.env_api import ResetSpec


def observation_of(shop, person):
    """The last result of the person's episode."""
    return shop.visitors.find(person.client.cookies["webshop"]).visit.state


async def test_an_episode_from_search_to_purchase_is_a_models_episode(tmp_path):
    shop = human_shop(tmp_path)
    environment = shop.service.environment
    task = environment.task(ResetSpec(split="test", index=0))
    goal = environment.game(task).goal
    wanted = environment.shop.catalogue.product(goal.product)
    values = [value for _, value in goal.options]
    model = environment.start(task)
    async with people(shop) as (person,):
        await person.start()
        assert goal.instruction in person.text
        await person.search(wanted.title)
        results = [model.step(f"<action>search[{wanted.title}]</action>")]
        assert goal.instruction in person.text
        assert wanted.price_text in person.text
        for label, action in [(wanted.asin, wanted.asin.lower()), *((value, value) for value in values)]:
            await person.press(label)
            results.append(model.step(f"<action>click[{action}]</action>"))
        chosen = [one.get_text() for one in person.soup.find_all("button", attrs={"aria-pressed": "true"})]
        assert chosen == values
        for label, action in [("Features", "features"), ("Back to product", "< prev"), ("Buy now", "buy now")]:
            await person.press(label)
            results.append(model.step(f"<action>click[{action}]</action>"))
        assert "100 of 100 points" in person.text
        final = observation_of(shop, person)
    assert final.observation.text == results[-1].observation.text
    assert (final.reward, final.done, final.metadata) == (10.0, True, results[-1].metadata)
    (episode,) = load_episodes(tmp_path / "episodes.jsonl")
    assert [turn.action for turn in episode.turns] == [result.metadata.action for result in results]
    assert all(turn.action_valid and turn.format_valid for turn in episode.turns)
    assert (episode.task, episode.success, episode.total_reward) == ("webshop/test/0", True, 10.0)


async def test_the_score_page_names_what_does_not_match(tmp_path):
    shop = human_shop(tmp_path)
    async with people(shop) as (person,):
        await person.start(index="1")
        game = shop.visitors.find(person.client.cookies["webshop"]).visit.game
        await person.search(game.wanted.title)
        await person.press(game.wanted.asin)
        await person.press("Buy now")
        score = game.purchase
        assert score.options_matched == 0 < score.options
        missed = [one.find_parent("li").get_text() for one in person.soup.find_all(class_="no")]
        assert [f"{axis}: {value}" in text for (axis, value), text in zip(game.goal.options, missed, strict=True)]
        assert f"0 of {score.options}" in person.text
        assert f"{score.total:.4g}" in person.text


async def test_at_the_horizon_the_episode_ends_without_a_purchase(tmp_path):
    shop = human_shop(tmp_path, shop_environment(max_steps=2))
    async with people(shop) as (person,):
        await person.start()
        await person.search("lotion")
        assert person.steps == 1
        await person.search("cable")
        assert "Nothing bought" in person.text
        await person.next_task()
        assert person.steps == 0
    (episode,) = load_episodes(tmp_path / "episodes.jsonl")
    assert (episode.truncated, episode.terminated, episode.score, episode.purchase) == (True, False, 0.0, None)


async def test_a_stale_form_changes_nothing_and_shows_the_current_page(tmp_path):
    shop = human_shop(tmp_path)
    async with people(shop) as (person,):
        await person.start()
        await person.search("lotion")
        old = person.form_of("Next page")
        await person.press("A0000")
        before = observation_of(shop, person)
        await person.post("/act", **old)
        assert (person.note, person.steps) == (STALE, 2)
        assert "Buy now" in person.text
        assert observation_of(shop, person) is before
        await person.get("/1/2")
        assert person.note == ""


async def test_a_double_submission_counts_once_and_without_a_note(tmp_path):
    shop = human_shop(tmp_path)
    async with people(shop) as (person,):
        await person.start()
        form = person.fields(person.soup.find("form", role="search")) | {"search": "lotion"}
        for _ in range(3):
            await person.post("/act", **form)
            assert (person.note, person.steps) == ("", 1)


async def test_the_address_of_an_earlier_page_leads_to_the_current_one(tmp_path):
    async with people(human_shop(tmp_path)) as (person,):
        await person.start()
        await person.search("lotion")
        await person.get("/1/0")
        assert (person.note, person.steps, person.response.url.path) == (NO_WAY_BACK, 1, "/1/1")
        await person.get("/")
        assert (person.note, person.steps) == ("", 1)


@pytest.mark.parametrize(
    ("fields", "note"),
    [({"search": " \t "}, NO_WORDS), ({"search": "]["}, NO_WORDS), ({"click": "99"}, NO_BUTTON),
     ({"click": "0"}, NO_BUTTON), ({"click": "-1"}, NO_BUTTON), ({}, NO_BUTTON)],
)  # fmt: skip
async def test_a_form_without_an_action_takes_no_step(tmp_path, fields, note):
    async with people(human_shop(tmp_path)) as (person,):
        await person.start()
        await person.post("/act", episode="1", step="0", **fields)
        assert (person.note, person.steps) == (note, 0)


async def test_the_next_task_needs_the_end_of_this_one(tmp_path):
    async with people(human_shop(tmp_path)) as (person,):
        await person.start()
        await person.post("/next", episode="1", step="0")
        assert (person.note, person.response.url.path) == (NOT_OVER, "/1/0")


async def test_the_last_task_is_followed_by_the_first(tmp_path):
    shop = human_shop(tmp_path, shop_environment(max_steps=1))
    async with people(shop) as (person,):
        await person.start(index=str(shop.service.size - 1))
        await person.search("lotion")
        form = person.fields(person.soup.find("form", action="/next"))
        await person.post("/next", **form)
        await person.post("/next", **form)
        assert (person.note, person.response.url.path) == ("", "/2/0")
        assert shop.visitors.find(person.client.cookies["webshop"]).visit.task.id == "webshop/test/0"


async def test_two_people_have_separate_episodes(tmp_path):
    shop = human_shop(tmp_path, shop_environment(max_steps=2))
    async with people(shop, 2) as (first, second):
        await first.start()
        await second.start(index="3")
        await first.search("lotion")
        await second.search("cable")
        await second.search("jacket")
        assert "lotion" in first.soup.find("input", type="search")["value"]
        assert first.steps == 1
        await first.get("/1/2")
        assert first.steps == 1
        await first.search("tea")
    episodes = load_episodes(tmp_path / "episodes.jsonl")
    assert [one.task for one in episodes] == ["webshop/test/3", "webshop/test/0"]
    assert [turn.action for turn in episodes[1].turns] == ["search[lotion]", "search[tea]"]
    assert len({one.id.split("-")[2] for one in episodes}) == 2


async def test_an_episode_that_cannot_be_recorded_is_kept_until_it_can(tmp_path):
    shop = human_shop(tmp_path, shop_environment(max_steps=1))
    (tmp_path / "episodes.jsonl").mkdir()
    async with people(shop) as (person,):
        await person.start()
        await person.search("lotion")
        assert "could not be recorded" in person.note
        await person.next_task()
        assert person.response.url.path == "/1/1"
        (tmp_path / "episodes.jsonl").rmdir()
        await person.next_task()
        assert person.response.url.path == "/2/0"
    assert len(load_episodes(tmp_path / "episodes.jsonl")) == 1


async def test_sessions_are_limited_in_number_and_idle_time(tmp_path):
    now = [0.0]
    shop = human_shop(tmp_path, capacity=2, idle_s=10.0, clock=lambda: now[0])
    async with people(shop, 3) as (first, second, third):
        await first.start()
        now[0] = 6.0
        await second.start()
        await third.start()
        assert third.response.status_code == 503
        now[0] = 12.0
        await third.start()
        assert third.response.url.path == "/1/0"
        await first.post("/act", episode="1", step="0")
        assert (first.response.status_code, len(shop.visitors)) == (409, 2)
        assert "has ended" in first.note


async def test_the_cookie_is_random_http_only_and_lax(tmp_path):
    async with people(human_shop(tmp_path), 2) as persons:
        for person in persons:
            response = await person.client.post("/start", data={"index": "0"}, follow_redirects=False)
            cookie = response.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=lax" in cookie
        cookies = {person.client.cookies["webshop"] for person in persons}
        assert len(cookies) == 2
        assert min(map(len, cookies)) >= 40


async def test_with_a_token_nobody_enters_without_it(tmp_path):
    shop = human_shop(tmp_path, token="let-me-in")
    async with people(shop) as (person,):
        for given in ("", "let-me-out"):
            await person.start(token=given)
            assert (person.response.status_code, len(shop.visitors)) == (403, 0)
        await person.get("/1/0")
        assert person.response.status_code == 404
        await person.start(token="let-me-in")
        assert person.response.url.path == "/1/0"


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"host": "evil.example:8300"}]
)
async def test_pages_of_other_origins_are_refused(tmp_path, headers):
    shop = human_shop(tmp_path)
    async with people(shop) as (person,):
        await person.start()
        answer = await person.client.post("/act", data={"episode": "1", "step": "0", "search": "x"}, headers=headers)
        assert answer.status_code == 403
        answer = await person.client.post(
            "/act", data={"episode": "1", "step": "0", "search": "x"}, headers={"origin": BASE}
        )
        assert answer.url.path == "/1/1"


@pytest.mark.parametrize(("index", "status"), [("-1", 422), ("x", 422), ("9" * 30, 422), ("0", 200)])
async def test_a_wrong_task_number_is_named(tmp_path, index, status):
    async with people(human_shop(tmp_path)) as (person,):
        await person.start(index=index)
        assert person.response.status_code == status


async def test_large_and_malformed_forms_are_refused(tmp_path):
    async with people(human_shop(tmp_path)) as (person,):
        await person.start()
        for body in (b"search=" + b"a" * 70_000, b"&".join(b"a=%d" % number for number in range(100))):
            answer = await person.client.post("/act", content=body)
            assert answer.status_code == 400
        answer = await person.client.post("/act", content=b"episode=1&step=0&search=%ff%fe+shoes")
        assert answer.url.path == "/1/1"
