"""The body of a fetched document as text a model can read."""

from __future__ import annotations

import codecs
import json
import re
from email.message import Message

from perdure.tools.html_text import html_text

_TEXT_TYPES = re.compile(
    r"^(text/.*|application/(.*\+)?(json|xml|yaml|javascript|ecmascript|x-ndjson|jsonl|toml|rss))$"
)
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([\w-]{1,40})""", re.IGNORECASE)
_META_BYTES = 1_024  # HTML requires the declaration within them
_SLOW_CODECS = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7"})
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def body_text(body: bytes, content_type: str, encoding: str, url: str) -> str:
    """HTML as plain text, other text as it is, anything else as a note of type and size."""
    header = Message()
    header["content-type"] = content_type
    kind = header.get_content_type() if content_type else _guessed(body)
    packed = [one for one in re.split(r"[,\s]+", encoding.lower()) if one not in ("", "identity", "gzip", "deflate")]
    if packed or not (kind in _HTML_TYPES or _TEXT_TYPES.match(kind)):
        what = f"{kind}, packed with {', '.join(packed)}" if packed else kind
        return f"[not text: {what}, {len(body)} bytes]"
    text = _decoded(body, str(header.get_param("charset") or ""), kind)
    return html_text(text, url) if kind in _HTML_TYPES else text


def _guessed(body: bytes) -> str:
    """For a server that names no type."""
    if b"\0" in body[:_META_BYTES]:
        return "application/octet-stream"
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return "text/html" if body.lstrip()[:1] == b"<" else "text/plain"
    return "application/json"


def _decoded(body: bytes, charset: str, kind: str) -> str:
    for bom, name in _BOMS:
        if body.startswith(bom):
            return body.decode(name, "replace")
    if not charset and kind in _HTML_TYPES and (match := _META_CHARSET.search(body[:_META_BYTES])):
        charset = match[1].decode("ascii", "replace")
    try:
        if codecs.lookup(charset or "utf-8").name not in _SLOW_CODECS:
            return body.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):  # no such codec, one that does not make text, or a name that is none
        pass
    return body.decode("utf-8", "replace")
