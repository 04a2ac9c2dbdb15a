"""``@tool``: a typed function becomes a tool.

The schema and the judgement of arguments are in ``signature.py``, the text of results in ``result_text.py``,
the threads of synchronous functions in ``threads.py``.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, get_args, overload

from perdure.core.spec import Effect
from perdure.core.state import Json
from perdure.definitions import ToolDescription
from perdure.tools.call import running_call
from perdure.tools.docstring import read_docstring
from perdure.tools.port import InvalidArguments, ToolCallContext, ToolTrouble
from perdure.tools.result_text import result_text, valid_text
from perdure.tools.signature import Signature, ToolDefinitionError
from perdure.tools.threads import ToolThreads

P = ParamSpec("P")
R = TypeVar("R")

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what every vendor accepts as a function name
_ERROR_CHARS_MAX = 2_000  # an exception's message may carry a whole document
_STOP_GRACE_SECONDS = 1.0  # for an async tool's own cleanup after a cancellation; then it is left behind


class FunctionTool(Generic[P, R]):
    """A function as a tool; made by ``@tool``. Calling it calls the function, without Perdure."""

    def __init__(
        self, function: Callable[P, R], description: ToolDescription, signature: Signature, threads: ToolThreads | None
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self._description = description
        self._signature = signature
        self._threads = threads

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self._description['name']} of {self.origin}>"

    @property
    def description(self) -> ToolDescription:
        return self._description

    @property
    def origin(self) -> str:
        """Where the function was written: ``module.name``."""
        return f"{self.function.__module__}.{getattr(self.function, '__qualname__', '?')}"

    def in_threads(self, threads: ToolThreads) -> FunctionTool[P, R]:
        """The same tool, its synchronous function run in these threads."""
        return FunctionTool(self.function, self._description, self._signature, threads)

    def problem(self, arguments: dict[str, Json]) -> str | None:
        """What is wrong with the arguments, in words a model can act on; None when they fit."""
        try:
            self._signature.arguments(arguments)
        except InvalidArguments as error:
            return str(error)
        return None

    async def run(self, arguments: dict[str, Json], call: ToolCallContext) -> str:
        """The result as text. Raises ToolTrouble, also for whatever the function raises, exits of the process
        included, and for arguments that do not fit. Cancelling it leaves a synchronous function behind in its
        thread."""
        try:
            given = self._signature.arguments(arguments)
        except InvalidArguments as error:
            raise ToolTrouble(str(error), code="invalid_arguments") from error
        token = running_call.set(call)
        try:
            if inspect.iscoroutinefunction(self.function):
                return await _stoppable(self._answer_async(given))
            threads = self._threads or ToolThreads(1)  # outside a registry each call has a thread of its own
            return await threads.run(lambda: self._answer(given))
        finally:
            running_call.reset(token)

    def _answer(self, given: Mapping[str, Any]) -> str:
        try:
            return result_text(self.function(**given))  # type: ignore[call-arg]  # they passed the signature
        except ToolTrouble:
            raise
        except BaseException as error:  # sys.exit() in a tool is the tool's failure, not the end of the worker
            raise _trouble(error) from error

    async def _answer_async(self, given: Mapping[str, Any]) -> str:
        try:
            pending: Awaitable[object] = self.function(**given)  # type: ignore[call-arg, assignment]
            return result_text(await pending)
        except (ToolTrouble, GeneratorExit):
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _trouble(error) from error
        except BaseException as error:
            raise _trouble(error) from error


AnyTool = FunctionTool[..., Any]


async def _stoppable(answer: Coroutine[Any, Any, str]) -> str:
    """Await in a task of its own, so that a tool which swallows its cancellation cannot hold its caller."""
    task = asyncio.create_task(answer)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task], timeout=_STOP_GRACE_SECONDS)
        if task.done() and not task.cancelled():
            task.exception()  # seen: asyncio need not complain of it
        raise


def _trouble(error: BaseException) -> ToolTrouble:
    """What an author's exception is to the model: type and message, no traceback. A lost connection and a
    timeout ask for another attempt; everything else would most likely fail again."""
    try:
        message = valid_text(str(error))[:_ERROR_CHARS_MAX]
    except Exception:  # the author's __str__ may fail as well
        message = "(its message cannot be read)"
    name = type(error).__name__
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return ToolTrouble(f"the tool tried to end the process: {name}: {message}".rstrip(": "), code="tool_exited")
    return ToolTrouble(
        f"{name}: {message}" if message else name,
        code="tool_error",
        retryable=isinstance(error, (ConnectionError, TimeoutError)),
    )


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(
    *,
    effect: Effect = "once",
    timeout_seconds: float = 60,
    max_attempts: int = 3,
    parallel: bool | None = None,
    approval: bool = False,
    name: str | None = None,
    description: str | None = None,
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    effect: Effect = "once",
    timeout_seconds: float = 60,
    max_attempts: int = 3,
    parallel: bool | None = None,
    approval: bool = False,
    name: str | None = None,
    description: str | None = None,
) -> Any:
    """Make a tool of a typed function, synchronous or async; ``@tool`` or ``@tool(effect="read", …)``.

    ``effect`` says what a repetition would do. ``read`` changes nothing; ``idempotent`` may be done again with the
    same ``current_call().idempotency_key``; ``once`` (the default) is started at most once, ever.
    ``timeout_seconds`` bounds one attempt. ``max_attempts`` bounds the attempts, lost workers included; a ``once``
    tool gets another attempt only when the one before is known not to have started it. ``parallel`` allows other
    calls of the same turn beside it (default: only for ``read``). With ``approval`` a person is asked before each
    call, unless a rule of the agent's policy says otherwise. ``name`` and ``description`` default to the function's
    name and docstring; parameters are described by ``Annotated[T, Field(description=…)]`` or in the docstring
    (``Args:`` or ``:param``).

    An exception of the function is a failure that the model sees, as "Type: message"; raise
    ``ToolTrouble(message, retryable=True)`` to ask for another attempt. A synchronous function runs in a thread,
    so it may block; an async one must not. Raises ToolDefinitionError for a function that cannot be a tool.
    """
    local_names = sys._getframe(1).f_locals  # annotations may name what is local to where the tool is written

    def decorate(function: Callable[P, R]) -> FunctionTool[P, R]:
        tool_name = name if name is not None else getattr(function, "__name__", type(function).__name__)
        _check(tool_name, function, effect, timeout_seconds, max_attempts, approval)
        text, described = read_docstring(inspect.getdoc(function))
        signature = Signature(function, tool_name, described, local_names)
        about = ToolDescription(
            name=tool_name,
            description=text if description is None else description,
            parameters=signature.schema,
            effect=effect,
            parallel=effect == "read" if parallel is None else parallel,
            timeout_seconds=float(timeout_seconds),
            max_attempts=max_attempts,
            approval=approval,
            answered_by="worker",
        )
        return FunctionTool(function, about, signature, None)

    return decorate if function is None else decorate(function)


def _check(
    name: str,
    function: Callable[..., object],
    effect: str,
    timeout_seconds: float,
    max_attempts: int,
    approval: bool,
) -> None:
    if not callable(function) or isinstance(function, (type, FunctionTool)):
        raise ToolDefinitionError(f"@tool is for functions, not for {function!r}")
    if not _NAME.fullmatch(name):
        raise ToolDefinitionError(
            f"tool name {name!r} must be 1 to 64 of the characters a-z A-Z 0-9 _ -; give one with @tool(name=…)"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ToolDefinitionError(f"tool {name!r}: a tool returns its result; this function yields")
    if effect not in get_args(Effect):
        raise ToolDefinitionError(f"tool {name!r}: effect must be one of {get_args(Effect)}, not {effect!r}")
    if not isinstance(approval, bool):
        raise ToolDefinitionError(f"tool {name!r}: approval must be True or False, not {approval!r}")
    if isinstance(timeout_seconds, bool) or not 0 < timeout_seconds < float("inf"):
        raise ToolDefinitionError(f"tool {name!r}: timeout_seconds must be a positive number, not {timeout_seconds!r}")
    if isinstance(max_attempts, bool) or not isinstance(max_attempts, int) or max_attempts < 1:
        raise ToolDefinitionError(f"tool {name!r}: max_attempts must be 1 or more, not {max_attempts!r}")
