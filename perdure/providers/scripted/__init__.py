"""The scripted vendor server: three vendors' wire formats, answered from scripts, without a key or a network.

Reading order: ``script`` (the format), ``library`` (files), ``wire`` (shared shapes), ``select`` (which turn),
``responses``, ``chat``, ``messages`` (the dialects), ``faults``, ``exchange`` (one call), ``log``, ``app``.
Run it with ``python -m perdure.providers.scripted --port 8484``.
"""

from perdure.providers.scripted.app import create_app
from perdure.providers.scripted.library import ScriptError, script_names, shipped_scripts

__all__ = ["ScriptError", "create_app", "script_names", "shipped_scripts"]
