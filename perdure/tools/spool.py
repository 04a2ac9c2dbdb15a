"""What a model sees of a result too large for a transcript. The activity stores the whole; this words the preview."""

from __future__ import annotations

PREVIEW_HEAD_CHARS = 2_000  # enough to recognise what it is
PREVIEW_TAIL_CHARS = 500  # where errors and totals tend to stand


def preview(text: str, blob_id: str, size: int) -> str:
    """The beginning and the end of ``text``, and how to read on. ``size`` is the bytes of the whole in UTF-8."""
    kept = PREVIEW_HEAD_CHARS + PREVIEW_TAIL_CHARS
    note = (
        f'[This result has {size} bytes and is kept as blob "{blob_id}". '
        f'Read on with read_result {{"blob": "{blob_id}", "offset": BYTES, "length": BYTES}}.]'
    )
    if len(text) <= kept:
        return f"{text}\n\n{note}"
    head = _end_at_line(text[:PREVIEW_HEAD_CHARS])
    tail = text[-PREVIEW_TAIL_CHARS:]
    left_out = size - len(head.encode("utf-8", "replace")) - len(tail.encode("utf-8", "replace"))
    return f"{head}\n\n[… {left_out} bytes left out …]\n\n{tail}\n\n{note}"


def _end_at_line(head: str) -> str:
    """Cut at the last line's end when that costs at most a quarter; a Python string has no half characters."""
    cut = head.rfind("\n")
    return head[:cut] if cut >= len(head) * 3 // 4 else head
