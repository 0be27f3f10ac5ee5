"""Catalogues in a folder: goals, splits, reading, damage, and which folder is used."""

import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.environments.webshop_catalogue_support import (
    FakeNouns,
    Options,
    built,
    entry,
    product,
    synthetic_item,
    write_official,
)

from arlarena.environments.webshop.catalogue import cache as cache_module
from arlarena.environments.webshop.catalogue import goals as goals_module
from arlarena.environments.webshop.catalogue import open as open_module
from arlarena.environments.webshop.catalogue.build import CatalogueFacts, Item, build_folder, document
from arlarena.environments.webshop.catalogue.goals import Instruction, combination, combinations
from arlarena.environments.webshop.catalogue.open import build_official, open_catalogue, open_generated
from arlarena.environments.webshop.catalogue.store import StoredCatalogue
from arlarena.environments.webshop.errors import CatalogueError
from arlarena.environments.webshop.shop.goal import NO_LIMIT
from arlarena.environments.webshop.shop.product import Listing


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(open_module, "NounFinder", FakeNouns)


def all_goals(catalogue, split):
    return [catalogue.goal(split, index) for index in range(catalogue.sizes()[split])]


def contents(catalogue, split):
    return {(goal.product, tuple(sorted(map(str, goal.options)))) for goal in all_goals(catalogue, split)}


def human_item(number, options, text="i need shoes"):
    return Item(product(number), [Instruction(text, ["soft"], list(options))])


def test_products_are_read_as_they_were_built(tmp_path):
    items = [synthetic_item(number) for number in (3, 1, 2)]
    catalogue = built(tmp_path / "index", items)
    assert len(catalogue) == 3
    products = [catalogue.product(number) for number in range(3)]
    assert products == [item.product for item in items]
    shown = [Listing(product.asin, product.title, product.price_text) for product in products]
    assert [catalogue.listing(number) for number in range(3)] == shown
    assert [catalogue.number(item.product.asin) for item in items] == [0, 1, 2]
    assert catalogue.number("A00000000") is None
    assert catalogue.search("number2") == [2]
    assert catalogue.source().description == "of a test"
    with pytest.raises(IndexError):
        catalogue.product(3)
    with pytest.raises(IndexError):
        catalogue.product(-1)


def test_a_document_has_title_description_first_bullet_and_options():
    made = product(1, description="Nice", bullets=["First B", "second"])
    assert document(made) == "shoe number1 red nice first b size: s, m, and color: red, blue, green"


def test_synthetic_goals_are_all_combinations_of_options(tmp_path):
    catalogue = built(tmp_path / "index", [synthetic_item(0)])
    goals = [goal for split in catalogue.sizes() for goal in all_goals(catalogue, split)]
    assert sum(catalogue.sizes().values()) == 6
    expected = {(("color", color), ("size", size)) for color in ("red", "blue", "green") for size in ("s", "m")}
    assert {tuple(goal.options) for goal in goals} == expected
    (upper,) = {goal.price_upper for goal in goals}
    assert goals[0].instruction == (
        f"Find me shoes with color: {goals[0].options[0][1]}, and size: {goals[0].options[1][1]}"
        f", and price lower than {upper:.2f} dollars"
    )


def test_combinations_have_the_order_of_itertools_product():
    options = {"b": ["1", "2", "3"], "a": ["x", "y"], "c": ["u"]}
    expected = [list(zip("abc", values, strict=True)) for values in itertools.product("xy", "123", "u")]
    assert [combination(options, number) for number in range(combinations(options))] == expected
    assert combination({}, 0) == []
    assert combinations({"a": []}) == 0


def test_too_many_combinations_are_cut_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("arlarena.environments.webshop.catalogue.build.MAX_COMBINATIONS", 4)
    catalogue = built(tmp_path / "index", [synthetic_item(0)])
    assert sum(catalogue.sizes().values()) == 4
    assert "A000000000" in catalogue.warnings[0]


def test_price_limits_are_drawn_as_in_the_original():
    upper = {goals_module.price_limit(product(number, price=34.0), "text") for number in range(200)}
    assert upper == {50.0, 60.0, 70.0}  # the larger of two of 40, 50, 60, 70
    assert goals_module.price_limit(product(1, price=985.0), "text") == NO_LIMIT
    assert goals_module.price_limit(product(1, price=975.0), "text") == 990.0
    assert goals_module.price_limit(product(1, price=30.0), "a") in {50.0, 60.0, 70.0}


def test_goals_without_a_price_limit_have_no_text_of_it(tmp_path):
    catalogue = built(
        tmp_path / "index", [Item(product(0, price=2000.0), [Instruction("i need it", ["soft"], ["red"])])]
    )
    (goal,) = all_goals(catalogue, "train")
    assert (goal.instruction, goal.price_upper, goal.options) == ("i need it", NO_LIMIT, ["red"])


def test_official_splits_are_the_originals_shuffle(tmp_path):
    items = [human_item(number, [f"option {number}"], f"goal {number}.") for number in range(3100)]
    catalogue = built(tmp_path / "index", items)
    assert catalogue.sizes() == {"train": 1600, "validation": 1000, "test": 500}
    order = [f"goal {number}." for number in range(3100)]
    random.seed(233)
    random.shuffle(order)
    for split, part in {"test": order[:500], "validation": order[500:1500], "train": order[1500:]}.items():
        assert [goal.instruction.split(", and price")[0] for goal in all_goals(catalogue, split)] == part


@pytest.mark.parametrize("splits", ["official", "hash"])
def test_no_training_goal_has_product_and_options_of_an_evaluation_goal(tmp_path, splits):
    items = [synthetic_item(number) for number in range(40)]
    for number, item in enumerate(items):  # several instructions with the same options
        item.instructions.extend(Instruction(f"also {copy}", ["soft"]) for copy in range(number % 3))
    catalogue = built(tmp_path / "index", items, splits)
    train, validation, test = (contents(catalogue, split) for split in ("train", "validation", "test"))
    assert train
    assert validation
    assert test
    assert not train & (validation | test)
    if splits == "hash":
        assert not validation & test


@pytest.mark.parametrize("goals", range(1, 8))
def test_few_goals_are_split_in_proportion(tmp_path, goals):
    catalogue = built(tmp_path / "index", [human_item(number, ["red"]) for number in range(goals)])
    test, validation = goals // 6, goals // 3
    assert catalogue.sizes() == {"train": goals - test - validation, "validation": validation, "test": test}


def test_the_same_items_have_the_same_version_and_others_another(tmp_path):
    items = [synthetic_item(number) for number in range(3)]
    first, again = built(tmp_path / "a", items), built(tmp_path / "b", items)
    assert first.version == again.version
    assert built(tmp_path / "c", items[:2]).version != first.version
    assert built(tmp_path / "d", items, "hash").version != first.version


def test_a_catalogue_without_products_and_one_with_an_asin_twice_are_refused(tmp_path):
    with pytest.raises(CatalogueError, match="no product can be used"):
        built(tmp_path / "index", [])
    with pytest.raises(CatalogueError, match="A000000001 occurs twice"):
        built(tmp_path / "index", [synthetic_item(1), synthetic_item(1)])
    assert list(tmp_path.iterdir()) == []


def test_nouns_are_found_for_products_that_have_none(tmp_path):
    items = [synthetic_item(1, nouns=[]), synthetic_item(2, nouns=["given"])]
    build_folder(tmp_path / "index", items, CatalogueFacts("key", "test", None, "official"), nouns=FakeNouns())
    catalogue = StoredCatalogue(tmp_path / "index")
    assert [catalogue.product(number).nouns for number in (0, 1)] == [["shoe", "number1"], ["given"]]


NAMES = """
    products.bin instructions.bin asins.bin terms.bin meta.json goals.npy train.npy rows.npy posting_documents.npy
    posting_impacts.npy products_offsets.npy asin_numbers.npy
"""


@pytest.mark.parametrize("name", NAMES.split())
@pytest.mark.parametrize("damage", ["missing", "truncated", "emptied"])
def test_a_damaged_folder_is_named_with_the_fix(tmp_path, name, damage):
    built(tmp_path / "index", [synthetic_item(number) for number in range(20)])
    file = tmp_path / "index" / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-3] if damage == "truncated" else b"")
    with pytest.raises(CatalogueError, match=rf"{name}: .*build it again: python -m") as error:
        StoredCatalogue(tmp_path / "index")
    assert error.value.args


def test_a_damaged_record_is_named(tmp_path):
    built(tmp_path / "index", [synthetic_item(0)])
    file = tmp_path / "index" / "products.bin"
    file.write_bytes(b"\xc1" * len(file.read_bytes()))
    catalogue = StoredCatalogue(tmp_path / "index")
    for read in (catalogue.product, catalogue.listing):
        with pytest.raises(CatalogueError, match=r"products\.bin: record 0 is damaged"):
            read(0)


def test_a_folder_of_another_format_is_refused(tmp_path):
    built(tmp_path / "index", [synthetic_item(0)])
    meta = tmp_path / "index" / "meta.json"
    meta.write_text(meta.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(CatalogueError, match="has format 99"):
        StoredCatalogue(tmp_path / "index")


def test_official_files_are_built_once_into_the_cache(tmp_path, monkeypatch):
    data = write_official(tmp_path / "data", [entry(f"B{number}") for number in range(12)])
    monkeypatch.setenv("WEBSHOP_DATA", str(data))
    catalogue = open_catalogue(Options())
    assert sum(catalogue.sizes().values()) == 24
    assert catalogue.source().official is True
    (folder,) = [path for path in (tmp_path / "cache" / "arlarena" / "webshop").iterdir() if path.is_dir()]
    monkeypatch.setattr(open_module, "build_folder", None)  # is not called again
    assert open_catalogue(Options()).folder == folder


def test_of_several_builders_at_once_one_builds(tmp_path, monkeypatch):
    data = write_official(tmp_path / "data", [entry(f"B{number}") for number in range(12)])
    builds = []

    def counted_build(*arguments, **named):
        builds.append(1)
        return build_folder(*arguments, **named)

    monkeypatch.setattr(open_module, "build_folder", counted_build)
    with ThreadPoolExecutor(8) as threads:
        folders = set(threads.map(lambda _: build_official(data, Options()), range(8)))
    assert (len(folders), len(builds)) == (1, 1)


def test_other_options_and_changed_files_have_another_folder(tmp_path):
    data = write_official(tmp_path / "data", [entry(f"B{number}") for number in range(12)])
    folders = {build_official(data, Options(products=count)) for count in (None, 3, 4)}
    write_official(data, [entry(f"B{number}") for number in range(13)])
    folders.add(build_official(data, Options()))
    assert len(folders) == 4


def test_an_index_is_not_used_for_other_files_and_not_written_over_them(tmp_path):
    data = write_official(tmp_path / "data", [entry()])
    index = tmp_path / "index"
    assert build_official(data, Options(index=index)) == index
    with pytest.raises(CatalogueError, match="was built from other files, with other options or by another version"):
        build_official(data, Options(index=index, products=1))
    with pytest.raises(CatalogueError, match=r"no meta\.json, so it is not an index"):
        build_official(data, Options(index=data))
    assert (data / "items_shuffle_1000.json").is_file()
    assert open_catalogue(Options(index=index)).version == StoredCatalogue(index).version


def test_an_index_that_cannot_be_written_is_named(tmp_path):
    data = write_official(tmp_path / "data", [entry()])
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogueError, match=r"file/index: cannot be (written|read)"):
        build_official(data, Options(index=tmp_path / "file" / "index"))


def test_a_server_does_not_build_a_large_catalogue(tmp_path, monkeypatch):
    data = write_official(tmp_path / "data", [entry(f"B{number}") for number in range(12)])
    monkeypatch.setattr(open_module, "MAX_BUILT_BY_SERVER", 11)
    with pytest.raises(CatalogueError, match=rf"more than 11 products.*webshop build --data {data} --goals synthetic"):
        open_catalogue(Options(data=data))
    assert len(open_catalogue(Options(data=data, products=11))) == 11
    build_official(data, Options())
    assert len(open_catalogue(Options(data=data))) == 12


def test_files_without_goals_are_refused(tmp_path):
    data = write_official(tmp_path / "data", [entry()], attributes={})
    with pytest.raises(CatalogueError, match="no product has an instruction"):
        open_catalogue(Options(data=data))


def test_a_catalogue_of_one_product_and_one_goal_works(tmp_path):
    human = {
        "B000000001": [{"instruction": "i need it", "instruction_attributes": ["soft"], "instruction_options": []}]
    }
    data = write_official(tmp_path / "data", [entry()], human=human)
    catalogue = open_catalogue(Options(data=data, goals="human"))
    assert catalogue.sizes() == {"train": 1, "validation": 0, "test": 0}
    assert catalogue.goal("train", 0).instruction.startswith("i need it, and price lower than ")
    assert catalogue.search("red shoe") == [0]


def test_human_goals_of_a_missing_product_are_left_out(tmp_path):
    human = {
        asin: [{"instruction": asin, "instruction_attributes": ["soft"], "instruction_options": []}]
        for asin in ("B000000001", "B999999999")
    }
    data = write_official(tmp_path / "data", [entry()], human=human)
    assert sum(open_catalogue(Options(data=data, goals="human")).sizes().values()) == 1


def test_a_killed_build_leaves_no_folder_that_is_used(tmp_path):
    def items():
        yield synthetic_item(0)
        raise CatalogueError("the file ends")

    (tmp_path / ".index.partial").mkdir()  # of an earlier build that was killed
    with pytest.raises(CatalogueError, match="the file ends"):
        build_folder(tmp_path / "index", items(), CatalogueFacts("key", "test", None, "official"))
    assert list(tmp_path.iterdir()) == []


class GeneratedOfTest:
    key, code, description = "seed 0", "1", "generated by a test"

    def items(self):
        return [Item(product(number), []) for number in range(5)]

    def goals(self, product):
        return ComputedGoals(product)


class ComputedGoals:
    def __init__(self, product):
        self.product = product

    def sizes(self):
        return {"train": 1_000_000, "validation": 2, "test": 2}

    def goal(self, split, index):
        return goals_module.Goal(index % 5, f"{split} {self.product(index % 5).title}", ["soft"], [], 50.0)


def test_a_generated_catalogue_computes_its_goals(tmp_path):
    catalogue = open_generated(GeneratedOfTest(), tmp_path / "index")
    assert catalogue.sizes()["train"] == 1_000_000
    assert catalogue.goal("test", 1).instruction == "test Shoe number1 red"
    assert catalogue.source().official is False
    assert catalogue.version != StoredCatalogue(tmp_path / "index").version


def test_a_folder_of_another_generator_or_of_other_search_constants_is_not_used(tmp_path, monkeypatch):
    source = GeneratedOfTest()
    first = open_generated(source, None)
    monkeypatch.setattr(cache_module, "K1", 1.2)
    others = [open_generated(source, None)]
    source.code = "2"
    others.append(open_generated(source, None))
    assert len({first.folder, *(catalogue.folder for catalogue in others)}) == 3
    assert {catalogue.version for catalogue in others} == {first.version}
