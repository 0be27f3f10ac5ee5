"""Fenced blocks in the forms that models write: see `fenced`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PYTHON = "python"
# python3, ipython, py3.11, {python}, {.python}, python:solve.py, {code-cell} ipython3, tool_code (Gemma's name for it).
_LANGUAGE = re.compile(
    r"[ \t]*+(?:\{code-cell\}[ \t]*+)?+[{\[. \t]*+(?:i?python|py|pycon|tool_code)[\d.]*+(?:-repl)?+(?![\w(=.+#-])",
    re.IGNORECASE,
)
# A fence that begins its line, or one within a line that names Python.
_OPENING = re.compile(
    rf"^(?P<indent>[ \t]*+)(?P<fence>`{{3,}}+|~{{3,}}+)|(?<!`)(?P<inline>`{{3,}}+)(?={_LANGUAGE.pattern})",
    re.MULTILINE | re.IGNORECASE,
)
# What may stand between the language and the end of the line without being code: a file's name, attributes, options.
_ATTRIBUTES = re.compile(
    r"(?![ \t]*+(?:assert|async|class|def|del|for|from|global|if|import|pass|print|raise|return|try|while|with)\b)"
    r"(?:[ \t,:}\]]++|\{[^{}`\n]*+\}|\[[^\[\]`\n]*+\]|[\w./#-]++(?![ \t]*+[(=])"
    r"|(?:title|file|filename|name|label|id|class|caption|linenums|hl_lines|start|exec|echo|eval|output|include|session)"
    r"=(?:\"[^\"\n]*+\"|'[^'\n]*+'|[^\s\"'`]++))*+$",
    re.MULTILINE | re.IGNORECASE,
)
# Code that begins where the language should be named.
_CODE = re.compile(r"[ \t]*+((?:import|from)[ \t]+\w|(?:print|final_answer)[ \t]*\(|\w+[ \t]*=[^=])")
_BEFORE_CODE = re.compile(r"(?::[ \t]*+[\w/-]++\.py\b)?+[ \t:}\]]*+")  # between a language and code on its line
_OUTPUT = re.compile(r"\b(?:print|final_answer)[ \t]*\(")
_BLANK = re.compile(r"[ \t]*+$", re.MULTILINE)
_RUN = re.compile(r"`{3,}+|~{3,}+")
# Of Python: a fence, or what a fence can be part of. A triple quote that is never closed takes the rest of the text.
_TOKEN = re.compile(
    r"(?P<fence>`{3,}+|~{3,}+)|(?P<comment>\#[^\n]*+)|\\."
    r"|(?P<text>'''(?:[^'\\]++|\\.|'(?!''))*+(?P<end>'''|)|\"\"\"(?:[^\"\\]++|\\.|\"(?!\"\"))*+(?P<end2>\"\"\"|))"
    r"|'(?:[^'\\\n]++|\\.)*+'|\"(?:[^\"\\\n]++|\\.)*+\"",
    re.DOTALL,
)
_INDENTED = re.compile(r"^([ \t]*+)\S", re.MULTILINE)
_QUOTATION = re.compile(r"(?:[ \t]*+>)++[ \t]*+")
_PROMPT = re.compile(r"[ \t]*+(?:>>>|In \[\d*\]:)(?: |$)", re.MULTILINE)
_PROMPTED = re.compile(r"[ \t]*+(?:>>>|In \[\d*\]:|\.\.\.:?)(?: (.*)|)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: the first word after the fence in lower case, `python` for all of Python's names, "" where none is.
        content: what it holds, without the indentation of its fence.
        start, end: where it begins and ends in the text, fences included.
        closed: whether it has a closing fence.
        on_lines: whether its fences stand on lines of their own.
    """

    language: str
    content: str
    start: int
    end: int
    closed: bool
    on_lines: bool

    @property
    def names_code(self) -> bool:
        """Whether it is marked as Python, or as nothing."""
        return self.language in (PYTHON, "")

    @property
    def is_code(self) -> bool:
        """Whether it is a program: Python, or no language named, and not empty."""
        return self.names_code and bool(self.content.strip())


@dataclass(frozen=True, slots=True)
class _Opening:
    """A fence that opens a block: where, how far from the beginning of its line, and where the content begins.
    `quoted`: how many marks of a Markdown quotation stand before it.
    """

    fence: str
    start: int
    indent: int
    language: str
    body: int
    on_line: bool
    quoted: int = 0


def fenced(text: str) -> Iterator[Block]:
    """The fenced blocks of a text, in order; its lines end with a line feed alone.

    As in CommonMark, a block is opened by three or more backticks or tildes at the beginning of a line, which may be
    indented as in a list, and closed by as many. Beyond that:

    - Code may begin on the line of the opening fence, and end on that of the closing one, as it does where all is on
      one line. Within a line, a fence opens a block if it names Python, and either ends the line or is closed on it.
    - In a Markdown quotation (`> ```python`), a fence opens a block if it names Python; the marks are no part of it.
    - Python ends at the first fence that is in none of its strings and comments; where there is none, at the first one
      in a comment or in a string that is never closed.

    To reach the first block of code takes time linear in the text.
    """
    position, line_end = 0, -1
    while found := _OPENING.search(text, position):
        if found.end() > line_end:
            line_end = text.find("\n", found.end())
            line_end = len(text) if line_end < 0 else line_end
        opening = _opened(text, found, line_end)
        if opening is None:
            position = line_end
        else:
            yield (block := _block(text, opening))
            position = max(block.end, found.end())


def _opened(text: str, found: re.Match[str], line_end: int) -> _Opening | None:
    """The block that a fence opens, if it does."""
    inline, after, following = bool(found["inline"]), found.end(), min(line_end + 1, len(text))
    fence = found["inline"] or found["fence"]
    start = after - len(fence)
    indent = start - max(text.rfind("\n", 0, start) + 1, start - 100) if inline else len(found["indent"])
    one_line = text.find(fence, after, line_end) >= 0
    if named := _LANGUAGE.match(text, after):
        if (_BLANK if inline else _ATTRIBUTES).match(text, named.end()):
            quoted = _QUOTATION.fullmatch(text, start - indent, start) if inline else None
            return _Opening(fence, start, indent, PYTHON, following, not inline, quoted[0].count(">") if quoted else 0)
        code = _BEFORE_CODE.match(text, named.end())
        body = code.end() if code else named.end()
        return None if inline and not one_line else _Opening(fence, start, indent, PYTHON, body, False)
    begins = None if _ATTRIBUTES.match(text, after) else _CODE.match(text, after)
    if begins and (not one_line or _OUTPUT.search(text, after, line_end)):
        return _Opening(fence, start, indent, "", begins.start(1), False)
    words = text[after:line_end].split(maxsplit=1)
    if fence[0] == "`" and any("`" in word for word in words):
        return None
    return _Opening(fence, start, indent, words[0].lower() if words else "", following, True)


def _block(text: str, opening: _Opening) -> Block:
    closing = _closing_of_python(text, opening) if opening.language in (PYTHON, "") else _closing(text, opening)
    until, end = closing.span() if closing else (len(text), len(text))
    content = text[opening.body : until]
    line = content.rfind("\n") + 1
    alone = closing is not None and not content[line:].strip() and (line > 0 or text[opening.body - 1] == "\n")
    if alone:
        content, until = content[:line], opening.body + line
    closed = closing is not None
    if closing and opening.language in (PYTHON, "") and _LANGUAGE.match(text, end):
        closed, end = False, until  # the fence opens the next block: that of this one is missing
    elif closing and (blank := _BLANK.match(text, end)):
        end = min(blank.end() + 1, len(text))
    if opening.quoted:
        content = re.sub(rf"^(?:[ \t]*+>){{1,{opening.quoted}}}[ \t]?", "", content, flags=re.MULTILINE)
    if content.strip():
        content = _without_prompts(_dedented(content, opening.indent))
    return Block(opening.language, content, opening.start, end, closed, opening.on_line and (alone or not closed))


def _closing(text: str, opening: _Opening) -> re.Match[str] | None:
    """The fence that ends a block: as long as the one that opened it, at the end of a line."""
    runs = _RUN.finditer(text, opening.body)
    return next((run for run in runs if run[0].startswith(opening.fence) and _BLANK.match(text, run.end())), None)


def _closing_of_python(text: str, opening: _Opening) -> re.Match[str] | None:
    """The fence that ends a block of Python: see `fenced`."""
    doubtful: re.Match[str] | None = None
    for token in _TOKEN.finditer(text, opening.body):
        if token["fence"]:
            # Backticks are no Python. Tildes are: only at the end of a line they are none.
            ends = token["fence"].startswith(opening.fence) and (
                opening.fence[0] == "`" or _BLANK.match(text, token.end())
            )
            if ends:
                return doubtful if doubtful and _LANGUAGE.match(text, token.end()) else token
        elif doubtful is None and (token["comment"] or (token["text"] and not (token["end"] or token["end2"]))):
            runs = _RUN.finditer(text, token.start(), token.end())
            doubtful = next((run for run in runs if run[0].startswith(opening.fence)), None)
    return doubtful


def _dedented(content: str, indent: int) -> str:
    """Content without the indentation that both its first line and its fence have."""
    first = _INDENTED.search(content) if indent else None
    margin = min(indent, len(first[1])) if first else 0
    return re.sub(rf"^[ \t]{{1,{margin}}}", "", content, flags=re.MULTILINE) if margin else content


def _without_prompts(content: str) -> str:
    """The input of an interactive session that begins with a prompt; any other content as it is."""
    if not _PROMPT.match(content.lstrip("\n")):
        return content
    lines = (_PROMPTED.match(line) for line in content.split("\n"))
    return "".join(f"{line[1] or ''}\n" for line in lines if line)
