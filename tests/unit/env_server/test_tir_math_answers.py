r"""What is read of replies: the first program, the last \boxed, whether anything else is there."""

import time

import pytest

from arlarena.env_server.tir_math.answers import boxed, fenced, read_reply


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
def test_boxed(text, content):
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
        ("```python\nx\n``` no end\n```", "x\n``` no end\n"),
        ("```json\n{}\n```\n```python\nx\n```", "x\n"),
        ("```json\n```python\nx\n```", None),
        (f"{PROGRAM}\n```python\nprint(2)\n```", "print(1)\n"),
        ("```bash\nls\n```", None),
        ("```\n```", None),
        ("```python\n\n   \n```", None),
        ("text ```python\nprint(1)\n", None),
        ("`print(1)`", None),
        ("``\nprint(1)\n``", None),
        ("```a`b\nprint(1)\n```", None),
        ("", None),
    ],
)
def test_the_program(reply, code):
    assert read_reply(reply).code == code


@pytest.mark.parametrize(
    ("reply", "code", "closed"),
    [
        ("```python\nprint(1)", "print(1)", False),
        ("```python\nprint(1)\n``", "print(1)\n``", False),
        (PROGRAM, None, True),
    ],
)
def test_a_program_that_is_not_closed_is_one_and_is_said_to_be_open(reply, code, closed):
    read = read_reply(reply)
    assert read.closed is closed
    assert code is None or (read.code == code and not read.format_valid and not read.void)


@pytest.mark.parametrize(
    ("reply", "has_code", "answer", "void", "valid"),
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
def test_what_a_reply_is(reply, has_code, answer, void, valid):
    read = read_reply(reply)
    assert (read.code is not None, read.answer, read.void, read.format_valid) == (has_code, answer, void, valid)


@pytest.mark.parametrize(
    ("reply", "answer", "void"),
    [
        (r"<think>\boxed{4}</think>\boxed{5}", "5", False),
        (r"\boxed{4} was it</think>\boxed{5}", "5", False),
        (r"<think>a</think><think>b</think>\boxed{5}", "5", False),
        (r"<think>\boxed{4}</think>", None, True),
        (r"<think>\boxed{4}", None, True),
        (r"<think>a</think>\boxed{4}<think>\boxed{5}", None, True),
        (f"<think>{PROGRAM}</think>\nnothing", None, True),
    ],
)
def test_only_what_follows_the_thoughts_counts(reply, answer, void):
    read = read_reply(reply)
    assert (read.answer, read.void, read.code) == (answer, void, None)


def test_a_program_in_the_thoughts_is_not_run_and_one_after_them_is():
    assert read_reply(f"<think>```python\nbad\n```</think>\n{PROGRAM}").code == "print(1)\n"


def test_blocks_say_where_they_are():
    text = f"a\n{PROGRAM}\nb\n~~~sh\nls\n"
    first, second = fenced(text)
    assert text[first.start : first.end] == f"{PROGRAM}\n"
    assert (first.language, first.is_code, first.closed) == ("python", True, True)
    assert (second.language, second.is_code, second.closed, second.end) == ("sh", False, False, len(text))


MEGABYTE = 1_000_000
LARGE = {
    "braces": "{" * MEGABYTE,
    "closing braces": "}" * MEGABYTE,
    "boxes": "\\boxed{" * (MEGABYTE // 7),
    "boxes and closing braces": "\\boxed{" * (MEGABYTE // 8) + "}" * (MEGABYTE // 8),
    "boxes without braces": "\\boxed " * (MEGABYTE // 7),
    "a box and spaces": "\\boxed" + " " * MEGABYTE,
    "backslashes": "\\" * MEGABYTE,
    "fences": "```\n" * (MEGABYTE // 4),
    "a long fence": "`" * MEGABYTE,
    "a fence, spaces and a backtick": "```" + " " * MEGABYTE + "`",
    "spaces": " " * MEGABYTE,
    "lines": "\n" * MEGABYTE,
    "thoughts": "<think>" * (MEGABYTE // 7),
    "ended thoughts": "<think></think>" * (MEGABYTE // 15),
    "a program": "```python\n" + "x = 1\n" * (MEGABYTE // 6) + "```",
    "longer and longer fences": "\n".join("`" * length for length in range(3, 1400)),
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_a_megabyte_takes_linear_time(text):
    def taken(part):
        start = time.process_time()
        read_reply(part)
        boxed(part)
        return time.process_time() - start

    quarter = min(taken(text[: len(text) // 4]) for _ in range(3))
    # Four times as much takes four times as long, not sixteen times.
    assert min(taken(text) for _ in range(2)) < 9 * quarter + 0.2


def test_the_largest_box_is_read_whole():
    content = "{}" * (MEGABYTE // 4)
    assert boxed(f"\\boxed{{{content}}}") == content
