"""``read_result``: reads on in a large result that was kept beside the transcript."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from perdure.tools.call import current_call
from perdure.tools.function_tool import AnyTool, tool
from perdure.tools.limits import ToolLimits
from perdure.tools.port import ToolTrouble

_NAMED_MAX = 10  # blobs named in an error, for a model that mistyped one
_CHARACTER_BYTES_MAX = 4  # of one character in UTF-8


def result_tools(limits: ToolLimits) -> list[AnyTool]:
    most = limits.read_result_bytes_max

    @tool(effect="read", timeout_seconds=30)
    async def read_result(
        blob: Annotated[str, Field(description="the blob id named in the shortened result")],
        offset: Annotated[int, Field(ge=0, description="first byte to read")] = 0,
        length: Annotated[int, Field(ge=1, description="bytes to read; a large value is cut to what fits")] = 20_000,
    ) -> str:
        """Read a part of a large tool result of this session that was shortened in the conversation."""
        call = current_call()
        known = await call.blobs.known()
        if blob not in known:
            named = ", ".join(sorted(known)[:_NAMED_MAX]) or "none"
            raise ToolTrouble(f"this session has no result {blob!r}; its results are: {named}", code="unknown_result")
        wanted = max(min(length, most), _CHARACTER_BYTES_MAX)  # at least one whole character
        data = await call.blobs.get_blob(blob, offset=offset, length=wanted + 1)  # one more tells whether it goes on
        return _part(data, offset, wanted)

    return [read_result]


def _part(data: bytes, offset: int, wanted: int) -> str:
    """Whole characters only: a cut one at the start is left out, one at the end is left to the next part."""
    if not data:
        return f"[nothing at byte {offset}: the result ends before it]"
    part = data[:wanted]
    start = next((i for i, byte in enumerate(part[:_CHARACTER_BYTES_MAX]) if byte & 0xC0 != 0x80), 0) if offset else 0
    end = len(part)
    if len(data) > wanted:
        for back in range(1, min(_CHARACTER_BYTES_MAX, len(part) - start)):
            if part[-back] & 0xC0 != 0x80:
                end -= back if _character_bytes(part[-back]) > back else 0
                break
    text = part[start:end].decode("utf-8", "replace")
    goes_on = f"; read on with offset {offset + end}" if len(data) > wanted else "; this is the end"
    return f"{text}\n\n[bytes {offset + start} to {offset + end}{goes_on}]"


def _character_bytes(first: int) -> int:
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
