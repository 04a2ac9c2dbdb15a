"""The README's tour with curl: the blocks that are meant to be pasted into a shell, in order."""

from __future__ import annotations

import re

from tests.house.tree import ROOT

BEGIN, END = "<!-- tour:", "<!-- end of the tour -->"


def tour_blocks() -> list[str]:
    """The ``bash`` blocks of the tour as they stand."""
    text = (ROOT / "README.md").read_text()
    tour = text[text.index(BEGIN) : text.index(END)]
    return re.findall(r"^```bash\n(.*?)^```$", tour, re.MULTILINE | re.DOTALL)
