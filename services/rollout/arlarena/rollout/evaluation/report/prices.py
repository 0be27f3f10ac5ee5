"""The prices of models, from a dated table. The price of a model outside this table is unknown."""

from __future__ import annotations

import datetime
from importlib import resources
from pathlib import Path

import msgspec

from arlarena.rollout.evaluation.errors import EvaluationError

BUILT_IN = "prices.toml"


class ModelPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices of models in dollars per million tokens. `prices.toml` describes the fields."""

    vendor: str = ""
    models: tuple[str, ...]
    base_url: str = ""
    input: float
    cached_input: float | None = None
    output: float
    reasoning: float
    input_up_to: int | None = None
    source: str
    date: datetime.date

    def names(self) -> list[tuple[str, str]]:
        """Returns (name on the command line, address of the API) of each model."""
        return [(f"{self.vendor}/{name}" if self.vendor else name, self.base_url.rstrip("/")) for name in self.models]


class _PriceFile(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    currency: str
    price: list[ModelPrice] = []


class PriceTable:
    """The prices of one file.

    Attributes:
        origin: path of the file, or "built-in".
    """

    def __init__(self, prices: list[ModelPrice], origin: str) -> None:
        self.origin = origin
        self._prices: dict[tuple[str, str], ModelPrice] = {}
        for price in prices:
            for name in price.names():
                if name in self._prices:
                    raise EvaluationError(f"{origin}: two rows name the model {name[0]!r}. Remove it from one of them")
                self._prices[name] = price

    def price(self, model: str, base_url: str = "") -> ModelPrice | None:
        """Returns the prices of a model, or None if they are unknown.

        Args:
            model: the name on the command line, such as "openai/gpt-5". The complete name must match.
            base_url: address of the API; "" for the vendor's own address.
        """
        return self._prices.get((model, base_url.rstrip("/")))


def read_prices(path: Path | None = None) -> PriceTable:
    """Read the price file `path`. None: read the built-in file.

    Raises:
        EvaluationError: the file is missing or malformed.
    """
    origin = "built-in" if path is None else str(path)
    try:
        data = (resources.files(__package__) / BUILT_IN if path is None else path).read_bytes()
        content = msgspec.toml.decode(data, type=_PriceFile)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise EvaluationError(f"the price file {origin} cannot be read: {error}") from error
    if content.schema != 1 or content.currency != "USD":
        raise EvaluationError(f'the price file {origin} must have schema = 1 and currency = "USD"')
    for price in content.price:
        _check(price, origin)
    return PriceTable(content.price, origin)


def _check(price: ModelPrice, origin: str) -> None:
    values = (price.input, price.output, price.reasoning, price.cached_input or 0.0)
    if not price.models or not all(0 <= value < float("inf") for value in values):
        raise EvaluationError(
            f"{origin}: the row of {price.models or 'no model'} must have a model and finite prices of at least 0"
        )
