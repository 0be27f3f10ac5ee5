"""Finds fenced code blocks in the forms that models write. See `fenced`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PYTHON = "python"
# A language name that means Python: python3, ipython, py3.11, {python}, {.python}, python:solve.py, {code-cell}
# ipython3, tool_code (Gemma).
_LANGUAGE = re.compile(
    r"[ \t]*+(?:\{code-cell\}[ \t]*+)?+[{\[. \t]*+(?:i?python|py|pycon|tool_code)[\d.]*+(?:-repl)?+(?![\w(=.+#-])",
    re.IGNORECASE,
)
# Matches a fence at the beginning of a line. Also matches a fence within a line if a language name that means Python
# follows the fence.
_OPENING = re.compile(
    rf"^(?P<indent>[ \t]*+)(?P<fence>`{{3,}}+|~{{3,}}+)|(?<!`)(?P<inline>`{{3,}}+)(?={_LANGUAGE.pattern})",
    re.MULTILINE | re.IGNORECASE,
)
# Text between the language and the end of the line that is not code: a file name, attributes, options.
_ATTRIBUTES = re.compile(
    r"(?![ \t]*+(?:assert|async|class|def|del|for|from|global|if|import|pass|print|raise|return|try|while|with)\b)"
    r"(?:[ \t,:}\]]++|\{[^{}`\n]*+\}|\[[^\[\]`\n]*+\]|[\w./#-]++(?![ \t]*+[(=])"
    r"|(?:title|file|filename|name|label|id|class|caption|linenums|hl_lines|start|exec|echo|eval|output|include|session)"
    r"=(?:\"[^\"\n]*+\"|'[^'\n]*+'|[^\s\"'`]++))*+$",
    re.MULTILINE | re.IGNORECASE,
)
# Code directly after a fence, where the language is expected.
_CODE = re.compile(r"[ \t]*+((?:import|from)[ \t]+\w|(?:print|final_answer)[ \t]*\(|\w+[ \t]*=[^=])")
_BEFORE_CODE = re.compile(r"(?::[ \t]*+[\w/-]++\.py\b)?+[ \t:}\]]*+")  # between a language and code on the same line
_OUTPUT = re.compile(r"\b(?:print|final_answer)[ \t]*\(")
_BLANK = re.compile(r"[ \t]*+$", re.MULTILINE)
_RUN = re.compile(r"`{3,}+|~{3,}+")
# Tokens of Python: a fence, or a comment or string that may contain a fence. An unclosed string with triple quotes
# extends to the end of the text.
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
        language: the first word after the fence, in lower case; `python` for all names of Python; "" if there is no
            word.
        content: the text between the fences, without the indentation of the opening fence.
        start, end: the positions of the block in the text, fences included.
        closed: whether the block has a closing fence.
        on_lines: whether there is no code on the lines of the fences.
    """

    language: str
    content: str
    start: int
    end: int
    closed: bool
    on_lines: bool

    @property
    def names_code(self) -> bool:
        """Whether the fence names Python or no language."""
        return self.language in (PYTHON, "")

    @property
    def is_code(self) -> bool:
        """Whether the block is a program: the fence names Python or no language, and the content is not empty."""
        return self.names_code and bool(self.content.strip())


@dataclass(frozen=True, slots=True)
class _Opening:
    """A fence that opens a block.

    Attributes:
        fence: the backticks or tildes.
        start: position of the fence in the text.
        indent: number of characters before the fence on its line.
        language: as in `Block`.
        body: position in the text at which the content begins.
        on_line: whether the line contains only the fence, its language and its attributes.
        quoted: number of Markdown quotation marks (`>`) before the fence.
    """

    fence: str
    start: int
    indent: int
    language: str
    body: int
    on_line: bool
    quoted: int = 0


def fenced(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a text, in order. Lines must end with a line feed.

    As in CommonMark, three or more backticks or tildes at the beginning of a line open a block. The line may be
    indented. A fence with at least as many of the same characters closes the block. There are these extensions:

    - Code may begin on the line of the opening fence, and end on the line of the closing fence. Both fences may be on
      the same line.
    - A fence within a line opens a block if it names Python, and if the line ends after the name or contains the
      closing fence.
    - In a Markdown quotation (`> ```python`), a fence opens a block if it names Python. The quotation marks are
      removed.
    - A block of Python ends at the first fence outside strings and comments. If there is no such fence, the block ends
      at the first fence in a comment or in an unclosed string.

    The time until the first code block is found is linear in the length of the text.
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
    """Parse the fence `found` and its line. Return None if the fence opens no block."""
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
        closed, end = False, until  # a language follows, so this fence opens the next block and closes nothing
    elif closing and (blank := _BLANK.match(text, end)):
        end = min(blank.end() + 1, len(text))
    if opening.quoted:
        content = re.sub(rf"^(?:[ \t]*+>){{1,{opening.quoted}}}[ \t]?", "", content, flags=re.MULTILINE)
    if content.strip():
        content = _without_prompts(_dedented(content, opening.indent))
    return Block(opening.language, content, opening.start, end, closed, opening.on_line and (alone or not closed))


def _closing(text: str, opening: _Opening) -> re.Match[str] | None:
    """Return the fence that ends a block. This fence is at least as long as the opening fence, and ends its line."""
    runs = _RUN.finditer(text, opening.body)
    return next((run for run in runs if run[0].startswith(opening.fence) and _BLANK.match(text, run.end())), None)


def _closing_of_python(text: str, opening: _Opening) -> re.Match[str] | None:
    """Return the fence that ends a block of Python. The docstring of `fenced` states the rules."""
    fallback: re.Match[str] | None = None
    for token in _TOKEN.finditer(text, opening.body):
        if token["fence"]:
            # Backticks are never valid Python. Tildes are operators, so they are a fence only at the end of a line.
            ends = token["fence"].startswith(opening.fence) and (
                opening.fence[0] == "`" or _BLANK.match(text, token.end())
            )
            if ends:
                return fallback if fallback and _LANGUAGE.match(text, token.end()) else token
        elif fallback is None and (token["comment"] or (token["text"] and not (token["end"] or token["end2"]))):
            runs = _RUN.finditer(text, token.start(), token.end())
            fallback = next((run for run in runs if run[0].startswith(opening.fence)), None)
    return fallback


def _dedented(content: str, indent: int) -> str:
    """Remove the indentation of the fence from all lines of the content. If the first line is indented less, remove
    only the indentation of the first line.
    """
    first = _INDENTED.search(content) if indent else None
    margin = min(indent, len(first[1])) if first else 0
    return re.sub(rf"^[ \t]{{1,{margin}}}", "", content, flags=re.MULTILINE) if margin else content


def _without_prompts(content: str) -> str:
    """If the content is an interactive session (it begins with `>>>` or `In [1]:`), remove the prompts and the outputs.
    Return other content unchanged.
    """
    if not _PROMPT.match(content.lstrip("\n")):
        return content
    lines = (_PROMPTED.match(line) for line in content.split("\n"))
    return "".join(f"{line[1] or ''}\n" for line in lines if line)
