r"""Parsing of replies: the first program, the last \boxed, and the strict format."""

import time

import pytest

from arlarena.environments.tir_math.episode.fences import fenced
from arlarena.environments.tir_math.episode.replies import boxed, read_reply


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{5}", "5"),
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed {5}", "5"),
        ("\\boxed\n{5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{x = \text{a {nested} one}}", r"x = \text{a {nested} one}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{[0,1\}}", r"[0,1\}"),
        (r"\boxed{\left\{ x \mid x>0 \right.}", r"\left\{ x \mid x>0 \right."),
        (r"\boxed{a \\ b}", r"a \\ b"),
        ("\\boxed{\n  5\n}", "5"),
        (r"$\boxed 5$", "5"),
        (r"\boxed 12.", "12"),
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed-3", "-3"),
        (r"\boxed{5} and then \boxed{6", "5"),
        (r"\boxed{\frac{1}{2} and then \boxed{3}", "3"),
        (r"} } \boxed{5} }", "5"),
        (r"\boxed{5} later \boxed{}", "5"),
        (r"\boxed{5} later \boxed{ }", "5"),
        (r"\\boxed{5}", None),
        (r"\boxedanswer{5}", None),
        (r"\boxed{}", None),
        (r"\boxed{", None),
        (r"\boxed", None),
        ("in \\boxed notation", None),
        ("boxed{5}", None),
        ("", None),
    ],
)
def test_boxed_gives_the_last_complete_box(text, content):
    assert boxed(text) == content


PROGRAM = "```python\nprint(1)\n```"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (PROGRAM, "print(1)\n"),
        (f"Let us see.\n{PROGRAM}\n", "print(1)\n"),
        ("```py\nprint(1)\n```", "print(1)\n"),
        ("```Python3\nprint(1)\n```", "print(1)\n"),
        ("```\nprint(1)\n```", "print(1)\n"),
        ("~~~python\nprint(1)\n~~~", "print(1)\n"),
        ("``` python title=x\nprint(1)\n```", "print(1)\n"),
        ("````python\nprint('''\n```\n''')\n````", "print('''\n```\n''')\n"),
        ("~~~\nprint('```')\n```\n~~~", "print('```')\n```\n"),
        ("```python\r\nprint(1)\r\nprint(2)\r\n```\r\n", "print(1)\nprint(2)\n"),
        ("1. so:\n   ```python\n   if x:\n       y\n   ```", "if x:\n    y\n"),
        ("```python\n  a\n b\n```", "  a\n b\n"),
        ("```python\ns = '''\n      ```\n'''\n```", "s = '''\n      ```\n'''\n"),
        ("```python\nx\n``` and so on\n", "x\n"),
        ("```json\n{}\n```\n```python\nx\n```", "x\n"),
        ("```json\n```python\nx\n```", None),
        (f"{PROGRAM}\n```python\nprint(2)\n```", "print(1)\n"),
        ("```bash\nls\n```", None),
        ("```\n```", None),
        ("```python\n\n   \n```", None),
        ("text ```python\nprint(1)\n```", "print(1)\n"),
        ("I use ```python``` for that", None),
        ("I would write ```python and then\nstop", None),
        ("`print(1)`", None),
        ("``\nprint(1)\n``", None),
        ("```a`b\nprint(1)\n```", None),
        ("", None),
    ],
)
def test_the_first_python_block_is_the_program(reply, code):
    assert read_reply(reply).code == code


CODE = "print(6*7)"
LANGUAGES = [
    "python", "Python", "python3", "Python3", "py", "py3", "python3.11", "ipython", "IPython3", "pycon", "tool_code",
    "{python}", "{.python}", "{python, echo=FALSE}", "{.python .numberLines}", "python{1,3-5}", "{code-cell} ipython3",
    "python:solve.py", "python: solve.py", "python solve.py", 'python title="to solve.py"', "python # solve it",
    "python linenums=1", " python ", "",
]  # fmt: skip


@pytest.mark.parametrize("fence", ["```", "~~~", "````"])
def test_all_names_of_python_mark_a_program(fence):
    for language in LANGUAGES:
        read = read_reply(f"So:\n{fence}{language}\n{CODE}\n{fence}")
        assert (read.code, read.format_valid) == (f"{CODE}\n", True), language


@pytest.mark.parametrize("language", ["javascript", "java", "c", "pythonic", "bash", "json", "sage", "text", "pytb"])
def test_blocks_of_other_languages_are_not_programs(language):
    assert read_reply(f"```{language}\n{CODE}\n```").no_action
    assert read_reply(f"```{language}\n{CODE}```\n```python\nx\n```").code == "x\n"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (f"```python\n{CODE}```", CODE),
        (f"```python\n{CODE}``` prints it.", CODE),
        ("```python\nx = 6\nprint(x)```\nSo", "x = 6\nprint(x)"),
        (f"~~~python\n{CODE}~~~", CODE),
        (f"Run ```python {CODE}```", CODE),
        (f"Run ```python {CODE}``` now", CODE),
        (f"```python {CODE}```", CODE),
        (f"```{CODE}```", CODE),
        (f"```python {CODE}\n```", f"{CODE}\n"),
        (f"```python:solve.py {CODE}\n```", f"{CODE}\n"),
        (f"```{{python}} {CODE}```", CODE),
        ("```python import math\nprint(math.pi)\n```", "import math\nprint(math.pi)\n"),
        ("```python x = 5\nprint(x)\n```", "x = 5\nprint(x)\n"),
        ("```python for x in y:\n    print(x)\n```", "for x in y:\n    print(x)\n"),
        ("```import math\nprint(math.pi)\n```", "import math\nprint(math.pi)\n"),
        ("```x = 5\nprint(x)\n```", "x = 5\nprint(x)\n"),
        ("Code: ```python\nif x:\n    y\n```", "if x:\n    y\n"),
        ("- ```python\n  if x:\n      y\n  ```", "if x:\n    y\n"),
        ("<code>```python\nx\n```</code>", "x\n"),
    ],
)
def test_a_fence_on_a_line_of_code_is_read_but_not_strict_format(reply, code):
    read = read_reply(reply)
    assert (read.code, read.closed, read.no_action, read.format_valid) == (code, True, False, False)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("```python\n'''Example:\n```\n>>> f()\n```\n'''\nx\n```", "'''Example:\n```\n>>> f()\n```\n'''\nx\n"),
        ('```python\ndef f():\n    """\n    ```\n    """\n```', 'def f():\n    """\n    ```\n    """\n'),
        ("```python\ns = '```'\ny\n```", "s = '```'\ny\n"),
        ('```python\ns = "a\\"```"\ny\n```', 's = "a\\"```"\ny\n'),
        ("```python\n# in ```x``` it\ny\n```", "# in ```x``` it\ny\n"),
        ("```python\nx  # 42```\nSo it is", "x  # 42"),
        ("```python\nx  # 42```\nThen\n```python\ny\n```", "x  # 42"),
        ("```python\ns = '''a\n```\nIt's done", "s = '''a\n"),
        ("```python\nprint('it's')```\nDone", "print('it's')"),
        ("~~~python\nx = ~~~5\n~~~", "x = ~~~5\n"),
        ("```python\n```python\nx\n```", "x\n"),
        ("   ```python\nif x:\n    y\n   ```", "if x:\n    y\n"),
        ("\t```python\n\tif x:\n\t\ty\n\t```", "if x:\n\ty\n"),
        ("```python\rx\ry\r```", "x\ny\n"),
        ("```pycon\n>>> x = 1\n>>> for i in x:\n...     y\n...\n1\n>>> z\n```", "x = 1\nfor i in x:\n    y\n\nz\n"),
        ("```python\nIn [1]: x = 1\n\nIn [2]: y\nOut[2]: 5\n```", "x = 1\ny\n"),
        ("```python\nx\n```<|im_end|>", "x\n"),
    ],
)
def test_a_program_ends_at_the_right_fence(reply, code):
    assert read_reply(reply).code == code


@pytest.mark.parametrize(
    "reply",
    [r"Not ```python```: it is \boxed{5}.", r"```x = 5```, so \boxed{5}", "I would open ```python and go\n\\boxed{5}"],
)
def test_a_mentioned_fence_does_not_hide_an_answer(reply):
    read = read_reply(reply)
    assert (read.code, read.answer, read.format_valid) == (None, "5", True)


@pytest.mark.parametrize(
    ("reply", "code", "closed"),
    [
        ("```python\nprint(1)", "print(1)", False),
        ("```python\nprint(1)\n``", "print(1)\n``", False),
        (PROGRAM, None, True),
    ],
)
def test_an_unclosed_program_is_run_and_marked_as_unclosed(reply, code, closed):
    read = read_reply(reply)
    assert read.closed is closed
    assert code is None or (read.code == code and not read.format_valid and not read.no_action)


@pytest.mark.parametrize(
    ("reply", "has_code", "answer", "no_action", "valid"),
    [
        (PROGRAM, True, None, False, True),
        (f"Let me compute.\n\n{PROGRAM}\n\n  \n", True, None, False, True),
        (r"So it is \boxed{5}.", False, "5", False, True),
        (rf"\boxed{{5}}, let me check:{chr(10)}{PROGRAM}", True, "5", False, False),
        (f"{PROGRAM}\nSo it is \\boxed{{5}}.", True, None, False, False),
        (f"{PROGRAM}\n{PROGRAM}", True, None, False, False),
        ("```python\nprint(r'\\boxed{5}')\n```", True, None, False, True),
        ("```json\n{}\n```\nit is \\boxed{5}", False, "5", False, True),
        ("```text\n\\boxed{5}\n```", False, "5", False, True),
        ("```python\n```\n\\boxed{5}", False, "5", False, False),
        ("I do not know.", False, None, True, False),
        ("```bash\nls\n```", False, None, True, False),
        ("", False, None, True, False),
        (" \n\t", False, None, True, False),
    ],
)
def test_a_reply_has_code_or_an_answer_or_no_action(reply, has_code, answer, no_action, valid):
    read = read_reply(reply)
    assert (read.code is not None, read.answer, read.no_action, read.format_valid) == (
        has_code,
        answer,
        no_action,
        valid,
    )


@pytest.mark.parametrize(
    ("reply", "answer", "no_action"),
    [
        (r"<think>\boxed{4}</think>\boxed{5}", "5", False),
        (r"\boxed{4} was it</think>\boxed{5}", "5", False),
        (r"<think>a</think><think>b</think>\boxed{5}", "5", False),
        (r"<think>\boxed{4}</think>", None, True),
        (r"<think>\boxed{4}", None, True),
        (r"<think>a</think>\boxed{4}<think>\boxed{5}", None, True),
        (r"<|begin_of_thought|>\boxed{4}<|end_of_thought|>\boxed{5}", "5", False),
        (r"[THINK]\boxed{4}", None, True),
        (f"<think>{PROGRAM}</think>\nnothing", None, True),
    ],
)
def test_only_text_after_the_thought_counts(reply, answer, no_action):
    read = read_reply(reply)
    assert (read.answer, read.no_action, read.code) == (answer, no_action, None)


def test_a_program_in_the_thought_is_not_run():
    assert read_reply(f"<think>```python\nbad\n```</think>\n{PROGRAM}").code == "print(1)\n"


def test_blocks_have_their_positions():
    text = f"a\n{PROGRAM}\nb\n~~~sh\nls\n"
    first, second = fenced(text)
    assert text[first.start : first.end] == f"{PROGRAM}\n"
    assert (first.language, first.is_code, first.closed) == ("python", True, True)
    assert (second.language, second.is_code, second.closed, second.end) == ("sh", False, False, len(text))


LENGTH = 200_000
LARGE = {
    "braces": "{" * LENGTH,
    "closing braces": "}" * LENGTH,
    "boxes": "\\boxed{" * (LENGTH // 7),
    "boxes and closing braces": "\\boxed{" * (LENGTH // 8) + "}" * (LENGTH // 8),
    "boxes without braces": "\\boxed " * (LENGTH // 7),
    "a box and spaces": "\\boxed" + " " * LENGTH,
    "backslashes": "\\" * LENGTH,
    "fences": "```\n" * (LENGTH // 4),
    "a long fence": "`" * LENGTH,
    "a fence, spaces and a backtick": "```" + " " * LENGTH + "`",
    "spaces": " " * LENGTH,
    "lines": "\n" * LENGTH,
    "thoughts": "<think>" * (LENGTH // 7),
    "ended thoughts": "<think></think>" * (LENGTH // 15),
    "a program": "```python\n" + "x = 1\n" * (LENGTH // 6) + "```",
    "a program of quotes": "```python\n" + "x = '\\'" * (LENGTH // 7),
    "strings of three quotes": "```python\n" + "\"\"\" ''' " * (LENGTH // 8),
    "comments": "```python\n" + "# `` '" * (LENGTH // 6),
    "fences in comments": "```python\n" + "# ``` " * (LENGTH // 6),
    "mentioned fences": "x ```python``` " * (LENGTH // 15),
    "openings that are not closed": "x ```python y " * (LENGTH // 14),
    "openings with code": "```python x(\n" * (LENGTH // 13),
    "languages": "```python\n" * (LENGTH // 10),
    "attributes": "```python " + "a.b {c} " * (LENGTH // 8) + "!",
    "prompts": "```\n" + ">>> x\n" * (LENGTH // 6),
    "longer and longer fences": "\n".join("`" * length for length in range(3, 1400)),
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_a_long_reply_takes_linear_time(text):
    def taken(part):
        start = time.process_time()
        read_reply(part)
        boxed(part)
        return time.process_time() - start

    quarter = min(taken(text[: len(text) // 4]) for _ in range(2))
    # Four times the length takes about four times as long, not sixteen times. A second try, if the first was slow.
    assert any(taken(text) < 9 * quarter + 0.2 for _ in range(2))


def test_a_very_long_box_is_read_completely():
    content = "{}" * (LENGTH // 4)
    assert boxed(f"\\boxed{{{content}}}") == content
