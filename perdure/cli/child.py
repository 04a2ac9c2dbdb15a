"""How `perdure up` starts one of our own processes: ``python -P -m perdure.cli.child MODULE [ARG …]``.

The folder where `perdure up` was typed goes to the *end* of the import path: the modules named in
``PERDURE_TOOLS`` are found there, and a user's own ``worker.py`` or ``api/`` never stands in for ours.
"""

from __future__ import annotations

import os
import runpy
import sys


def main() -> None:
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    sys.path.append(os.getcwd())
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
