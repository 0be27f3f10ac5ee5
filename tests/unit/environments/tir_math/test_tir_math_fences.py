"""Fenced blocks in Markdown quotations."""

import time

import pytest

from arlarena.environments.tir_math.episode.fences import fenced


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("> ```python\n> print(1)\n> ```", "print(1)\n"),
        ("So:\n\n> ```py\n> for i in range(2):\n>     print(i)\n>\n> print(3)\n> ```\n> That prints 3.", None),
        (">```python\n>print(1)\n>```", "print(1)\n"),
        ("> > ```python\n> > print(1 > 0)\n> > ```", "print(1 > 0)\n"),
        ("  >  ```python\n  >  print(1)\n  >  ```", "print(1)\n"),
        ("> ```python\nprint(2 >\n1)\n```", "print(2 >\n1)\n"),
        ("> ```python\n> >>> print(1)\n> 1\n> ```", "print(1)\n"),
        ("> ```python\n> x = '''\n> > a\n> '''\n> ```", "x = '''\n> a\n'''\n"),
    ],
)
def test_quotation_marks_are_removed_from_code(text, code):
    (block,) = fenced(text)
    assert (block.is_code, block.closed, block.on_lines) == (True, True, False)
    assert block.content == (code or "for i in range(2):\n    print(i)\n\nprint(3)\n")


@pytest.mark.parametrize("quoted", ["> ```\n> 42\n> ```", "> ```text\n> 42\n> ```", "> ~~~\n> 42\n> ~~~"])
def test_a_quoted_block_that_does_not_name_python_is_ignored(quoted):
    (block,) = fenced(f"{quoted}\n```python\nprint(2)\n```")
    assert block.content == "print(2)\n"


def test_many_quotation_marks_take_linear_time():
    for text in (
        ">" * 200_000 + "```python",
        "> " * 100_000 + "```python\n" + "> " * 100_000,
        "> ```python\n" * 20_000,
    ):
        began = time.process_time()
        next(fenced(text), None)
        assert time.process_time() - began < 1.0
