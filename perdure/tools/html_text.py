"""The readable text of an HTML page: title, text, links. Enough for a model to read; no layout."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin

_SKIPPED = frozenset({"script", "style", "noscript", "template", "svg", "iframe", "object"})
_BLOCKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figure", "footer", "form",
        "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section",
        "table", "tr", "ul",
    }
)  # fmt: skip
_BLANKS = re.compile(r"[ \t\r\f\v\u00a0]+")
_LINE_ENDS = re.compile(r" *\n *")
_EMPTY_LINES = re.compile(r"\n{3,}")


def html_text(html: str, base_url: str) -> str:
    """The page's text, its title first; a link's address stands in <> after its text, made absolute."""
    page = _Page(base_url)
    page.feed(html)
    page.close()
    text = _EMPTY_LINES.sub("\n\n", _LINE_ENDS.sub("\n", _BLANKS.sub(" ", "".join(page.text)))).strip()
    title = " ".join("".join(page.title).split())
    return f"{title}\n\n{text}" if title else text


class _Page(HTMLParser):
    def __init__(self, base_url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.title: list[str] = []
        self._base_url = base_url
        self._skipping: str | None = None
        self._skip_depth = 0
        self._in_title = False
        self._link: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipping:
            self._skip_depth += tag == self._skipping
        elif tag in _SKIPPED:
            self._skipping, self._skip_depth = tag, 1
        elif tag == "title":
            self._in_title = True
        elif tag in _BLOCKS:
            self.text.append("\n- " if tag == "li" else "\n")
        elif tag in ("td", "th"):
            self.text.append(" ")
        elif tag == "a":
            self._link = self._absolute(dict(attrs).get("href"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _SKIPPED:  # <script/> opens nothing
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._skipping:
            self._skip_depth -= tag == self._skipping
            if self._skip_depth == 0:
                self._skipping = None
        elif tag == "title":
            self._in_title = False
        elif tag in _BLOCKS:
            self.text.append("\n")
        elif tag == "a" and self._link:
            self.text.append(f" <{self._link}>")
            self._link = None

    def handle_data(self, data: str) -> None:
        if self._skipping:
            return
        (self.title if self._in_title else self.text).append(data)

    def _absolute(self, href: str | None) -> str | None:
        try:
            url = urljoin(self._base_url, href or "")
        except ValueError:
            return None
        return url if href and not href.startswith("#") and url.startswith(("http://", "https://")) else None
