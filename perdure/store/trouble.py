"""The trouble the journal can be in, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.core.state import RunStatus

if TYPE_CHECKING:
    from perdure.store.rows import AskRow


class JournalTrouble(Exception):
    """The journal cannot be reached or is locked; nothing was written. Trying again is right."""


class NotFound(Exception):
    """No such object in this project. ``kind`` is ``run``, ``session``, ``agent``, ``call``, ``message``,
    ``approval``, ``question``, ``ask``, ``schedule``, ``blob`` or ``entry`` (of a blackboard)."""

    def __init__(self, kind: str, id_: str) -> None:
        super().__init__(f"no {kind} {id_!r}")
        self.kind, self.id = kind, id_


class SessionBusy(Exception):
    """The session has an active run: ``run_id``."""

    def __init__(self, session_id: str, run_id: str) -> None:
        super().__init__(f"session {session_id} is busy with run {run_id}")
        self.session_id, self.run_id = session_id, run_id


class SessionDeleted(Exception):
    """The session's content is erased; only its tombstone is left."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id} was deleted")
        self.session_id = session_id


class SessionMovedOn(Exception):
    """The session has messages that came after the run that should be gone on with."""

    def __init__(self, session_id: str, run_id: str) -> None:
        super().__init__(f"session {session_id} has gone on after run {run_id}")
        self.session_id, self.run_id = session_id, run_id


class NoSuchNumber(Exception):
    """The session has no message, or the run no event, of this number; ``last`` is the newest one's."""

    def __init__(self, what: str, number: int, last: int) -> None:
        super().__init__(f"there is no number {number} in {what}, whose newest is {last}")
        self.number, self.last = number, last


class EventsExpired(Exception):
    """Events of the run up to ``kept_after`` are no longer kept."""

    def __init__(self, run_id: str, kept_after: int) -> None:
        super().__init__(f"run {run_id} has no events up to {kept_after} any more")
        self.run_id, self.kept_after = run_id, kept_after


class RunOver(Exception):
    """The run is terminal in the journal: nothing is written to it any more."""

    def __init__(self, run_id: str, status: RunStatus) -> None:
        super().__init__(f"run {run_id} is {status}")
        self.run_id, self.status = run_id, status


class AskResolved(Exception):
    """The ask, or the call, was decided or answered before in another way. ``row`` is the ask, if there is one."""

    def __init__(self, what: str, row: AskRow | None = None) -> None:
        super().__init__(what)
        self.row = row


class AskExpired(Exception):
    """The ask's time is over, whether anybody has noticed yet or not."""


class AskStale(Exception):
    """The decision was about other arguments than the call has now: ``args_sha256`` is the hash of those."""

    def __init__(self, ask_id: str, args_sha256: str) -> None:
        super().__init__(f"the arguments of {ask_id} are not the ones that were shown")
        self.args_sha256 = args_sha256


class NotEligible(Exception):
    """This person may not decide this: they asked for the run, or have voted already."""


class InboxFull(Exception):
    """As many messages as a run may have wait already: ``INBOX_WAITING_MAX``."""


class SliceTooLarge(Exception):
    """A child's budget is a part of its parent's, which has not so much left of ``limit``, or has ended."""

    def __init__(self, run_id: str, parent_id: str, limit: str, *, ended: bool) -> None:
        why = "has not so much left to give: ask for less, or raise the parent's first"
        if ended:
            why = "has ended: keep to the slice that it gave"
        super().__init__(f"the budget of {run_id} is a part of that of its parent {parent_id}, which {why}")
        self.limit = limit


class SlicesGiven(Exception):
    """A limit cannot be lowered to less than what is spent and what children at work may spend of it."""

    def __init__(self, run_id: str, limit: str) -> None:
        super().__init__(f"the children of {run_id} that are at work may spend more of its {limit} than this")
        self.limit = limit


class NameTaken(Exception):
    """Another agent of the project has this name: an agent cannot be renamed to it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"another agent is named {name!r}")
        self.name = name


class ScheduleNameTaken(Exception):
    """Another schedule of the project has this name: ``id``."""

    def __init__(self, name: str, id_: str) -> None:
        super().__init__(f"schedule {id_} is named {name!r}")
        self.name, self.id = name, id_


class TooManySchedules(Exception):
    """The project, or the agent that schedules itself, has as many as it may have."""

    def __init__(self, most: int, of: str) -> None:
        super().__init__(f"{of} may have {most} schedules")
        self.most = most


class BoardFull(Exception):
    """The blackboard has as many entries as it may have: ``BOARD_ENTRIES_MAX``."""


class StaleEntry(Exception):
    """An entry of a blackboard has changed since it was read: it is at ``version`` now."""

    def __init__(self, entry_id: str, version: int) -> None:
        super().__init__(f"{entry_id} is at version {version}")
        self.entry_id, self.version = entry_id, version


class VersionMismatch(Exception):
    """The object has changed since it was read: it is at ``version`` now."""

    def __init__(self, version: int) -> None:
        super().__init__(f"it is at version {version}")
        self.version = version


class InvalidCursor(Exception):
    """A list cursor that this journal never gave out."""


class KeyReused(Exception):
    """The idempotency key came before with another body."""


class KeyInProgress(Exception):
    """The first request with this idempotency key is still being answered."""
