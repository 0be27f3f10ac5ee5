"""Prices of models and the cost of tokens: an unknown price is None and never 0."""

import datetime
from importlib import resources

import pytest

from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.models.protocol import TokenUsage
from arlarena.rollout.evaluation.report.cost import dollars, money
from arlarena.rollout.evaluation.report.prices import read_prices
from arlarena.rollout.evaluation.totals import total_dollars

ROW = """
[[price]]
vendor = "acme"
models = ["big", "big-2026-01-01"]
input = 2.0
cached_input = 0.5
output = 8.0
reasoning = 4.0
input_up_to = 1000
source = "https://prices.example"
date = 2026-02-03
"""
HEAD = 'schema = 1\ncurrency = "USD"\n'


@pytest.fixture
def table(tmp_path):
    def read(text):
        (tmp_path / "prices.toml").write_text(HEAD + text)
        return read_prices(tmp_path / "prices.toml")

    return read


def test_only_a_named_snapshot_has_a_price(table):
    prices = table(ROW)
    assert prices.price("acme/big").input == 2.0
    assert prices.price("acme/big-2026-01-01") is prices.price("acme/big")
    for unknown in ("acme/big-2026-01-02", "acme/big-latest", "big", "other/big", "acme/bigger", ""):
        assert prices.price(unknown) is None


def test_a_price_of_one_address_does_not_hold_for_another(table):
    prices = table(ROW.replace("input = 2.0", 'base_url = "http://localhost:8000/v1/"\ninput = 0.0'))
    assert prices.price("acme/big") is None
    assert prices.price("acme/big", "http://localhost:8000/v1").input == 0.0
    assert read_prices().price("openai/gpt-5", "http://localhost:8000/v1") is None


def test_a_users_file_replaces_the_built_in_table(table):
    assert read_prices().price("openai/gpt-5") is not None
    assert table(ROW).price("openai/gpt-5") is None


def test_every_built_in_row_has_a_date_and_a_page():
    prices = read_prices()._prices
    assert len(prices) > 10
    for price in prices.values():
        assert price.source.startswith("https://")
        assert datetime.date(2025, 1, 1) < price.date <= datetime.date(2026, 11, 30)
        assert price.cached_input is None or price.cached_input < price.input < price.output
    text = resources.files("arlarena.rollout.evaluation.report").joinpath("prices.toml").read_text()
    assert text.count("source = ") == text.count("[[price]]") - 1  # the comment shows one header


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW + ROW, "two rows name the model 'acme/big'"),
        (ROW.replace("output = 8.0", "output = -1"), "at least 0"),
        (ROW.replace("output = 8.0", "output = nan"), "at least 0"),
        (ROW.replace('["big", "big-2026-01-01"]', "[]"), "must have a model"),
        (ROW.replace("output = 8.0\n", ""), "output"),
        (ROW.replace("date = 2026-02-03\n", ""), "date"),
        (ROW + "typo = 1\n", "typo"),
        ("[[price", "cannot be read"),
    ],
)
def test_a_malformed_file_is_refused(table, text, message):
    with pytest.raises(EvaluationError, match=message):
        table(text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match=r"absent\.toml"):
        read_prices(tmp_path / "absent.toml")


def test_cost_counts_each_token_once(table):
    price = table(ROW).price("acme/big")
    # 700 at 2 dollars per million, 300 cached at 0.5, 60 at 8, 40 of reasoning at 4
    assert dollars(TokenUsage(1_000, 100, 40, 300), price) == pytest.approx(0.0014 + 0.00015 + 0.00048 + 0.00016)
    assert dollars(TokenUsage(1_000, 100), price) == pytest.approx(0.002 + 0.0008)


def test_cost_is_unknown_rather_than_wrong(table):
    price = table(ROW).price("acme/big")
    assert dollars(TokenUsage(10, 10), None) is None
    assert dollars(TokenUsage(None, 10), price) is None
    assert dollars(TokenUsage(10, None), price) is None
    assert dollars(TokenUsage(1_001, 10), price) is None  # longer than the prices hold for
    assert dollars(TokenUsage(1_001, 10), price, requests=2) is not None
    without = table(ROW.replace("cached_input = 0.5\n", "")).price("acme/big")
    assert dollars(TokenUsage(10, 10, 0, 5), without) is None
    assert dollars(TokenUsage(10, 10, 0, 0), without) == pytest.approx(0.0001)


def test_a_sum_with_an_unknown_cost_is_unknown():
    assert total_dollars([0.5, 0.25]) == 0.75
    assert total_dollars([0.5, None]) is None
    assert total_dollars([]) == 0
    assert [money(cost) for cost in (None, 0.0, 0.00421, 1234.5)] == ["unknown", "$0.00", "$0.0042", "$1,234.50"]
