"""Tools: what authors need. ``from perdure.tools import tool, current_call``.

``function_tool.py`` makes a tool of a function, ``registry.py`` gathers tools for the shells, ``builtin/``
holds the ones that come with Perdure, ``port.py`` is what the shells rely on. Importing this package
loads neither Temporal nor a vendor's SDK nor an HTTP client.
"""

from perdure.tools.call import current_call
from perdure.tools.function_tool import FunctionTool, tool
from perdure.tools.limits import ToolLimits
from perdure.tools.port import ToolCallContext, ToolTrouble
from perdure.tools.signature import ToolDefinitionError

__all__ = [
    "FunctionTool",
    "ToolCallContext",
    "ToolDefinitionError",
    "ToolLimits",
    "ToolTrouble",
    "current_call",
    "tool",
]
