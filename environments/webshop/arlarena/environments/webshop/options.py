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
    """Options of WebShop. `data`, `products`, `goals` and the options of the generated catalogue determine the products
    and the goals.
    """

    data: Path | None = Field(
        None, description="folder of the official files; default: the folder in the environment variable WEBSHOP_DATA"
    )
    index: Path | None = Field(
        None, description="folder of the built index; default: a folder in ~/.cache/arlarena/webshop"
    )
    products: PositiveInt | None = Field(
        None,
        description="with official files, the number of products to read from the file (default: all); without these "
        "files, the number of products to generate (default: 10,000)",
    )
    goals: Literal["synthetic", "human"] = Field(
        "synthetic",
        description="goals of official files. synthetic: one goal for each combination of a product's options; human: "
        "the goals that people wrote",
    )
    catalogue_seed: NonNegativeInt = Field(
        0, description="seed of the generated catalogue; each seed gives another catalogue"
    )
    evaluation_goals: PositiveInt = Field(
        512, description="number of goals in each of validation and test of the generated catalogue"
    )
    texts: Texts = Field(
        "full",
        description="texts of the generated catalogue. full: as in a shop; short: for a tiny policy, with all "
        "attributes in the title, prices in steps of five dollars, ids of two tokens, and instructions without "
        "paraphrases",
    )
    types: PositiveInt | None = Field(
        None,
        description="maximum number of product types in each of the five categories of the generated catalogue; "
        "default: all types, about 30",
    )
    axes: NonNegativeInt = Field(
        3, description="maximum number of axes (kinds of options, such as color and size) of a generated product"
    )
    values: PositiveInt = Field(8, description="maximum number of values of an axis of a generated product")
    goal_attributes: PositiveInt = Field(
        3, description="maximum number of attributes of a generated goal; a goal never has more than 3"
    )
    max_results: int = Field(TOP, ge=1, le=TOP, description="maximum number of products that a search finds")
    observation: Form = Field(
        "text", description="form of pages. text: texts joined by [SEP]; rich: lines in which buttons are marked"
    )
    show_attributes: bool = Field(False, description="whether products have a page of their attributes, for debugging")
    show_score: bool = Field(
        False, description="whether the page after a purchase shows the parts of the score; WebShop's page does not"
    )
    max_steps: PositiveInt = Field(15, description="maximum number of steps of an episode")
    history: NonNegativeInt = Field(
        2, description="number of earlier turns in the prompt (history_length in the ARLArena paper)"
    )
    template: TemplateName = Field(
        "full", description="full: a prompt for a language model; compact: a short prompt for a tiny model"
    )
    expert_think: Literal["plan", "none"] = Field(
        "plan", description="thought in the expert's replies. plan: the purpose of the next action; none: no thought"
    )

    def generated(self) -> GeneratedOptions:
        """Return the options of the generated catalogue."""
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
