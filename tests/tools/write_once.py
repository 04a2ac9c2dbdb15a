"""Runs one workspace tool in a process of its own and kills that process after a named step.

python -m tests.tools.write_once WORKSPACE CALL_ID ATTEMPT STEP TOOL ARGUMENTS_JSON
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from perdure.tools import ToolLimits
from perdure.tools.builtin.files import file_tools
from tests.tools.calls import a_call, asked, named


def main(workspace: str, call_id: str, attempt: str, step: str, tool: str, arguments: str) -> None:
    def die(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    call = a_call(Path(workspace), call_id, int(attempt))
    print(asyncio.run(asked(named(file_tools(ToolLimits(), die), tool), call, **json.loads(arguments))))


if __name__ == "__main__":
    main(*sys.argv[1:])
