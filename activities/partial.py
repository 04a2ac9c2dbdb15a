"""What a model has said so far, should its answer be cut short."""

from __future__ import annotations

import time

from perdure.content import Block, TextBlock
from perdure.providers.port import Piece


class Partial:
    """The pieces of one attempt. ``first_token_ms`` is when the first one came, after the attempt began."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._texts: dict[int, list[str]] = {}
        self.pieces = 0
        self.first_token_ms: int | None = None

    def add(self, piece: Piece) -> None:
        if self.first_token_ms is None:
            self.first_token_ms = int((time.monotonic() - self._began) * 1000)
        self.pieces += 1
        if piece.kind == "text":
            self._texts.setdefault(piece.index, []).append(piece.text)

    def content(self) -> list[Block]:
        """The text blocks. Reasoning without its signature, and half a tool call, are of no use to anybody."""
        return [TextBlock(type="text", text="".join(texts)) for _, texts in sorted(self._texts.items())]
