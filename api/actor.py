"""Who does something, as they say: there are no keys yet that would prove it. The journal keeps the name with
every decision, and four eyes are counted by it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header

HEADER = "x-actor"
ANONYMOUS = "anonymous"


def _actor(
    actor: Annotated[
        str,
        Header(
            alias="X-Actor",
            min_length=1,
            max_length=128,
            pattern=r"^[\x21-\x7e]+$",
            description="Who you are, in visible ASCII characters; it is shown with what you do.",
            examples=["ana@example.com"],
        ),
    ] = ANONYMOUS,
) -> str:
    return actor


Actor = Annotated[str, Depends(_actor)]
