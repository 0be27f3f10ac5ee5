"""Reading the official files: the original's rules, and problems that are named."""

import gzip
import json

import pytest
from support.environments.webshop_catalogue_support import entry, write_official

from arlarena.environments.webshop.catalogue import json_stream
from arlarena.environments.webshop.catalogue.build import CatalogueFacts, build_folder
from arlarena.environments.webshop.catalogue.goals import Instruction
from arlarena.environments.webshop.catalogue.json_stream import ReadPosition, read_array
from arlarena.environments.webshop.catalogue.official import description, find_files, has_more_products, read_items
from arlarena.environments.webshop.catalogue.problems import DataProblems
from arlarena.environments.webshop.errors import CatalogueError

HUMAN = {"B000000001": [{"instruction": "i need shoes", "instruction_attributes": ["soft"]}]}


def read(folder, goals="synthetic", most=None):
    problems = DataProblems()
    return list(read_items(find_files(folder, goals), goals, problems, most)), problems.lines()


def only(tmp_path, **fields):
    """The product of a file with one entry, and the warnings."""
    ((item, *_), warnings) = read(write_official(tmp_path, [entry(**fields)]))
    return item.product, warnings


def test_a_product_follows_the_originals_rules(tmp_path):
    product, warnings = only(tmp_path)
    assert warnings == []
    assert (product.price, product.price_text) == (12.98, "$12.98")
    assert product.options == {"color": ["red", "navy | blue"]}
    assert product.option_images == {"red": "http://x/red.jpg"}
    assert (product.query, product.category) == ("running shoes", "fashion")
    assert product.bullets == ["Soft sole", "Light"]
    assert product.attributes == ["soft sole"]
    assert product.image == "http://x/1.jpg"


@pytest.mark.parametrize(
    ("pricing", "price", "text"),
    [("", 100.0, "$100.0"), (None, 100.0, "$100.0"), ("$1,847.00", 1847.0, "$1847.0"), ("$5", 5.0, "$5.0")],
)
def test_prices(tmp_path, pricing, price, text):
    product, warnings = only(tmp_path, pricing=pricing)
    assert (product.price, product.price_text, warnings) == (price, text, [])


def test_a_price_range_draws_one_price_by_asin(tmp_path):
    first, _ = only(tmp_path, pricing="$10.00$14.50")
    again, _ = only(tmp_path, pricing="$10.00$14.50")
    assert first.price_text == "$10.0 to $14.5"
    assert 10.0 <= first.price <= 14.5
    assert first.price == again.price


@pytest.mark.parametrize("pricing", ["$", "12.98", "$abc", "$1.2.3"])
def test_a_price_that_cannot_be_read_is_a_warning(tmp_path, pricing):
    product, (warning,) = only(tmp_path, pricing=pricing)
    assert (product.price, product.price_text) == (100.0, "$100.0")
    assert "items_shuffle_1000.json, product B000000001" in warning
    assert repr(pricing) in warning


@pytest.mark.parametrize(
    ("options", "expected", "warnings"),
    [
        (None, {}, 0),
        ({}, {}, 0),
        ("", {}, 0),
        ({"Size": None, "Color": []}, {"color": []}, 0),
        ({"Size": [{"price": 3}, {"value": "S"}]}, {"size": ["s"]}, 1),
        ({"Größe [\"'<b>": [{"value": "½ “L”\n"}]}, {"größe [\"'<b>": ["½ “l”"]}, 0),
        (["Size"], {}, 1),
        ({"Size": ["S"]}, {"size": []}, 1),
    ],
)
def test_options(tmp_path, options, expected, warnings):
    product, lines = only(tmp_path, customization_options=options)
    assert product.options == expected
    assert len(lines) == warnings


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"images": []}, "image", ""),
        ({"images": None}, "image", ""),
        ({"small_description": "one"}, "bullets", ["one"]),
        ({"small_description": []}, "bullets", []),
        ({"small_description": None}, "bullets", []),
        ({"full_description": None}, "description", ""),
        ({"full_description": float("nan")}, "description", ""),
        ({"full_description": "a \ud800 b"}, "description", "a � b"),
    ],
)
def test_missing_parts(tmp_path, fields, attribute, expected):
    product, warnings = only(tmp_path, **fields)
    assert getattr(product, attribute) == expected
    assert warnings == []


def test_products_without_attributes_have_the_dummy_attribute(tmp_path):
    items, _ = read(write_official(tmp_path, [entry()], attributes={}))
    assert items[0].product.attributes == ["DUMMY_ATTR"]
    assert items[0].instructions == []


def test_unusable_products_are_left_out_and_counted(tmp_path):
    entries = [entry("nan"), entry("B00000000001"), entry(), entry(), {"name": "no asin"}, "text", entry("B2", name="")]
    items, warnings = read(write_official(tmp_path, entries))
    assert [item.product.asin for item in items] == ["B000000001"]
    text = "\n".join(warnings)
    for part in ("longer than 10", "same asin", "without an asin", "no object", "without a name", "product number 7"):
        assert part in text
    assert "without an asin was left out: 2 times" in text


def test_only_the_first_entries_are_read(tmp_path):
    folder = write_official(tmp_path, [entry(f"B{number}") for number in range(5)])
    items, _ = read(folder, most=3)
    assert [item.product.asin for item in items] == ["B0", "B1", "B2"]
    files = find_files(folder, "synthetic")
    assert has_more_products(files, 4)
    assert not has_more_products(files, 5)


def test_human_instructions(tmp_path):
    human = {
        "B000000001": [
            {"instruction": "i need shoes.", "instruction_attributes": ["soft"], "instruction_options": ["red"]},
            {"instruction": "no attributes", "instruction_attributes": [], "instruction_options": []},
            {"instruction": "i want it", "instruction_attributes": ["soft"], "instruction_options": {"size": "m"}},
        ]
    }
    (item,), warnings = read(write_official(tmp_path, [entry()], human=human), "human")
    assert item.instructions == [
        Instruction("i need shoes", ["soft"], ["red"]),
        Instruction("i want it", ["soft"], [("size", "m")]),
    ]
    assert "instruction without attributes" in warnings[0]


def test_the_full_file_comes_before_the_small_one(tmp_path):
    write_official(tmp_path, [entry()])
    for name in ("items_shuffle.json", "items_ins_v2.json"):
        (tmp_path / name).write_text("[]")
    files = find_files(tmp_path, "synthetic")
    assert (files.products.name, files.attributes.name) == ("items_shuffle.json", "items_ins_v2.json")


def test_another_file_of_products_is_accepted_with_long_asins(tmp_path):
    items, warnings = read(write_official(tmp_path, [entry("LK_COLOR_B000000001")], name="lookalike_items.json"))
    assert [item.product.asin for item in items] == ["LK_COLOR_B000000001"]
    assert warnings == []


def test_a_missing_or_unclear_file_is_named(tmp_path):
    with pytest.raises(CatalogueError, match=r"no such folder; expected items_shuffle\.json"):
        find_files(tmp_path / "none", "synthetic")
    with pytest.raises(CatalogueError, match=r"no file of products; expected"):
        find_files(tmp_path, "synthetic")
    (tmp_path / "a_items.json").write_text("[]")
    with pytest.raises(CatalogueError, match="no file of attributes"):
        find_files(tmp_path, "synthetic")
    with pytest.raises(CatalogueError, match=r"items_human_ins\.json: missing"):
        find_files(tmp_path, "human")
    (tmp_path / "b_items.json").write_text("[]")
    with pytest.raises(CatalogueError, match=r"several files of products \(a_items\.json, b_items\.json\)"):
        find_files(tmp_path, "synthetic")


@pytest.mark.parametrize("text", ['{"B000000001": {"attributes": 3}}', '{"B000000001": {"instruction": ["x"]}}'])
def test_an_invalid_entry_of_attributes_is_named(tmp_path, text):
    folder = write_official(tmp_path, [entry()])
    (folder / "items_ins_v2_1000.json").write_text(text)
    with pytest.raises(CatalogueError, match=r"items_ins_v2_1000\.json, product B000000001: invalid entry"):
        read(folder)


def test_a_truncated_file_of_attributes_is_named(tmp_path):
    folder = write_official(tmp_path, [entry()])
    (folder / "items_ins_v2_1000.json").write_text('{"B000000001": {"attrib')
    with pytest.raises(CatalogueError, match=r"items_ins_v2_1000\.json: invalid or truncated JSON"):
        read(folder)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_arrays_are_read_in_chunks_of_any_size(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    values = [{"a": 'é\\"]', "b": [1, {}]}, "text", 12345, -1.5e3, None, True, [], {}]
    for number, text in enumerate([json.dumps(values), json.dumps(values, indent=1), " [ ] ", json.dumps([123])]):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        assert list(read_array(path)) == json.loads(text)


def test_every_truncation_is_named_with_its_position(tmp_path):
    text = json.dumps([{"asin": "B1", "price": None, "list": [1, 2.5, True]}, {"asin": "B2"}])
    path = tmp_path / "items.json"
    for length in range(len(text)):
        path.write_text(text[:length])
        with pytest.raises(
            CatalogueError, match=rf"items\.json: the file is truncated: it ends at character {length:,}"
        ):
            list(read_array(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', r"no JSON array of products: '\[' is missing at character 0"),
        ('[{"a": 1} {"b": 2}]', "',' is missing at character 10"),
        ('[{"a": 1}, {"b" 2, "c": "a long text follows"}]', "invalid JSON .* at character 16, in product 2"),
        ("[" * 100_000, "nested too deeply|truncated"),
        ("[" + "9" * 5000 + "]", "a number that cannot be read .* at character 1, in product 1"),
        ("[1,]", "invalid JSON"),
        ("[,1]", "invalid JSON"),
        ("[1]\n garbage", r"the array ends, but more text follows at character 5"),
        ("[1][2]", "the array ends, but more text follows at character 3"),
        ("[12345]\0\0\0", "the array ends, but more text follows at character 7"),
        ("null", r"'\[' is missing at character 0"),
        ('{"a": 1}\n{"a": 2}\n', r"'\[' is missing at character 0"),
    ],
)
def test_invalid_json_is_named_with_its_position(tmp_path, text, message):
    path = tmp_path / "items.json"
    path.write_text(text)
    with pytest.raises(CatalogueError, match=message):
        list(read_array(path))


# By the name of a file that is not JSON in UTF-8: how it is made from the JSON text, and the expected fix.
FORMATS = {
    "UTF-16": (lambda text: text.encode("utf-16"), "UTF-16 or UTF-32, not JSON in UTF-8; convert it to UTF-8"),
    "UTF-16 without mark": (lambda text: text.encode("utf-16-le"), "UTF-16 or UTF-32, .*convert it to UTF-8"),
    "UTF-16 big-endian": (lambda text: text.encode("utf-16-be"), "UTF-16 or UTF-32, .*convert it to UTF-8"),
    "UTF-32": (lambda text: text.encode("utf-32"), "UTF-16 or UTF-32, .*convert it to UTF-8"),
    "Latin-1": (lambda text: text.replace("hoe", "h\xe9e").encode("latin-1"), "utf-8|not UTF-8: .*convert it to UTF-8"),
    "gzip": (lambda text: gzip.compress(text.encode()), "is compressed with gzip, .*gunzip"),
    "zip": (lambda _: b"PK\x03\x04\x14\x00", "is a zip archive, .*extract its files"),
    "web page": (lambda _: b"<!DOCTYPE html><html>", "is a web page, .*download the file again"),
    "Git LFS": (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "empty": (lambda _: b"", "truncated"),
    "other type": (lambda _: b"3", r"'\[' is missing|Expected `object`"),
}


@pytest.mark.parametrize("name", ["items_shuffle_1000.json", "items_ins_v2_1000.json", "items_human_ins.json"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_of_another_format_is_named_with_the_fix(tmp_path, name, form):
    folder = write_official(tmp_path, [entry()], human=HUMAN)
    encoded, message = FORMATS[form]
    (folder / name).write_bytes(encoded((folder / name).read_text()))
    with pytest.raises(CatalogueError, match=rf"{name}.*({message})"):
        read(folder, "human")


@pytest.mark.parametrize("name", ["items_shuffle_1000.json", "items_ins_v2_1000.json", "items_human_ins.json"])
def test_a_byte_order_mark_is_ignored(tmp_path, name):
    folder = write_official(tmp_path, [entry()], human=HUMAN)
    expected = read(folder, "human")
    (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert read(folder, "human") == expected


def test_a_file_without_products_is_named(tmp_path):
    write_official(tmp_path, [])
    with pytest.raises(
        CatalogueError, match=r"items_shuffle_1000\.json: no product can be used: the file has no products"
    ):
        build_folder(
            tmp_path / "index",
            read_items(find_files(tmp_path, "synthetic"), "synthetic", DataProblems()),
            CatalogueFacts("key", description(find_files(tmp_path, "synthetic"), "synthetic"), True, "official"),
        )


def test_the_files_of_a_folder_without_products_are_listed(tmp_path):
    for name in ("items_shuffle.json.gz", "readme.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(CatalogueError, match=r"no file of products \(items_shuffle\.json\.gz, readme\.txt\); expected"):
        find_files(tmp_path, "synthetic")
    for number in range(10):
        (tmp_path / f"a{number}.txt").write_text("")
    with pytest.raises(CatalogueError, match=r"\(a0\.txt, .*a7\.txt, …\)"):
        find_files(tmp_path, "synthetic")


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (None, "invalid entry"),
        ([None], "invalid entry"),
        ([{"instruction": 3}], "invalid entry"),
        (
            [{"instruction": "x", "instruction_attributes": ["a"], "instruction_options": {"size": None}}],
            "invalid entry",
        ),
    ],
)
def test_an_invalid_entry_of_instructions_is_named(tmp_path, listed, message):
    folder = write_official(tmp_path, [entry()], human={"B000000001": listed})
    if listed is None:  # no instructions
        ((item,), _) = read(folder, "human")
        assert item.instructions == []
        return
    with pytest.raises(CatalogueError, match=rf"items_human_ins\.json, product B000000001: {message}"):
        read(folder, "human")


def test_the_position_in_the_file_is_counted_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 100)
    path = tmp_path / "items.json"
    path.write_text(json.dumps(["é" * 10] * 10_000, ensure_ascii=False))
    position, seen = ReadPosition(), []
    for _ in read_array(path, position):
        seen.append(position.bytes)
    assert seen == sorted(seen)
    assert 0 < seen[0] < path.stat().st_size
    assert position.bytes == path.stat().st_size
