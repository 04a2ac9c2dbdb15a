"""The parts of a docstring that a tool's description needs: its text, and a line per parameter.

Google (``Args:``) and Sphinx (``:param name:``) sections are understood; anything else stays in the text.
"""

from __future__ import annotations

import inspect
import re

_SPHINX = re.compile(r"^:(?:param|parameter|arg)\s+(?:[^:]*\s)?(?P<name>\w+):\s*(?P<text>.*)$")
_OTHER_FIELD = re.compile(r"^:\w+.*?:")
_GOOGLE_HEAD = re.compile(r"^(Args|Arguments|Parameters):\s*$")
_OTHER_HEAD = re.compile(r"^(Returns?|Raises|Yields?|Examples?|Notes?):\s*$")
_GOOGLE_ITEM = re.compile(r"^\s+\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?:\s*(?P<text>.*)$")


def read_docstring(docstring: str | None) -> tuple[str, dict[str, str]]:
    """The text without its parameter and return sections, and the description of each parameter named."""
    text: list[str] = []
    parameters: dict[str, str] = {}
    section: str | None = None  # None: the text; "args"; "field" of Sphinx; "skip" for what a model needs not know
    item: str | None = None
    indent = 0
    for line in inspect.cleandoc(docstring or "").splitlines():
        if _GOOGLE_HEAD.match(line):
            section, item, indent = "args", None, 0
        elif match := _SPHINX.match(line):
            section, item = "field", match["name"]
            parameters[item] = match["text"]
        elif _OTHER_HEAD.match(line) or _OTHER_FIELD.match(line):
            section, item = "skip", None
        elif section is None or (line.strip() and not line[0].isspace()):
            section, item = None, None
            text.append(line)
        elif section == "args" and (match := _GOOGLE_ITEM.match(line)) and _indent(line) <= (indent or 80):
            indent, item = _indent(line), match["name"]
            parameters[item] = match["text"]
        elif item and line.strip():
            parameters[item] = f"{parameters[item]} {line.strip()}".strip()
    return "\n".join(text).strip(), parameters


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
