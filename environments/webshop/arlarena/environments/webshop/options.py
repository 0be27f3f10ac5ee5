"""The table [environment.options] of WebShop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from arlarena.environments.webshop.generated.options import PRODUCTS, GeneratedOptions, Texts
from arlarena.environments.webshop.prompts import TemplateName
from arlarena.environments.webshop.search.index import TOP
from arlarena.environments.webshop.shop.nodes import Form
from arlarena.proto.config import Table, parse_table


class WebShopOptions(Table):
    """Options of WebShop. `data` and the options of the catalogue decide which products and goals there are."""

    data: Path | None = Field(None, description="folder of the official files; default: WEBSHOP_DATA, if set")
    index: Path | None = Field(
        None, description="folder of the built index; default: a folder in ~/.cache/arlarena/webshop"
    )
    products: PositiveInt | None = Field(
        None,
        description="use only this many products: the first of the file, default all; or of the generated catalogue, "
        "default 10,000",
    )
    goals: Literal["synthetic", "human"] = Field(
        "synthetic", description="goals of official files: one per combination of options, or those written by people"
    )
    catalogue_seed: NonNegativeInt = Field(0, description="another generated catalogue by each seed")
    evaluation_goals: PositiveInt = Field(
        512, description="number of goals in each of validation and test of the generated catalogue"
    )
    texts: Texts = Field(
        "full",
        description="texts of the generated catalogue: as in a shop; or short, for a tiny policy, with all attributes "
        "in the title, prices in steps of five dollars, ids of two tokens, and instructions without paraphrases",
    )
    types: PositiveInt | None = Field(
        None, description="maximum of product types in each of the five generated categories; default: all, some 30"
    )
    axes: NonNegativeInt = Field(3, description="maximum of option axes of a generated product, such as color and size")
    values: PositiveInt = Field(8, description="maximum of values of an option axis of a generated product")
    goal_attributes: PositiveInt = Field(3, description="maximum of attributes of a generated goal, at most 3")
    max_results: int = Field(TOP, ge=1, le=TOP, description="maximum of products that a search finds")
    observation: Form = Field(
        "text", description="form of pages: texts joined by [SEP], or lines in which buttons are marked"
    )
    show_attributes: bool = Field(False, description="whether products have a page of their attributes, for debugging")
    show_score: bool = Field(
        False, description="whether the page after a purchase shows the parts of the score; the original's does not"
    )
    max_steps: PositiveInt = Field(15, description="maximum steps of an episode")
    history: NonNegativeInt = Field(2, description="earlier turns in the prompt (the paper's history_length)")
    template: TemplateName = Field(
        "full", description="prompt for a language model, or a short prompt for a tiny model"
    )
    expert_think: Literal["plan", "none"] = Field(
        "plan", description="thought in the expert's replies: `plan`, its next aim; `none`, no thought"
    )

    def generated(self) -> GeneratedOptions:
        """Return the options of our own catalogue."""
        return GeneratedOptions(
            self.products or PRODUCTS,
            self.catalogue_seed,
            self.evaluation_goals,
            self.texts,
            self.types,
            self.axes,
            self.values,
            self.goal_attributes,
        )


def read_options(where: str, values: Mapping[str, Any]) -> WebShopOptions:
    """Validate the options and return them. Error messages begin with `where`.

    Raises:
        ConfigError: an option is unknown, or a value is out of range.
    """
    return parse_table(where, values, WebShopOptions)
