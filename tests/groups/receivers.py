"""Who is told things by a coordinator."""

from __future__ import annotations

from trunkline.errors import TrunklineError
from trunkline.groups import Assignment, JoinReply, SyncReply
from trunkline.log import TopicPartition


class Listener:
    """A member's end: remembers what it was told, and reads what it may until it confirms that it has stopped."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.member_id = ""
        self.told: list[Assignment] = []
        self.reading: set[TopicPartition] = set()
        self.error: TrunklineError | None = None

    def assignment_changed(self, assignment: Assignment) -> None:
        assert self.error is None, "it is told no more once it was fenced"
        self.told.append(assignment)
        self.reading = set(assignment.assigned) | (self.reading & set(assignment.revoked))

    def fenced(self, error: TrunklineError) -> None:
        assert self.error is None, "it is told once"
        self.error = error
        self.reading.clear()

    @property
    def last(self) -> Assignment:
        return self.told[-1]


class Receiver:
    """Who waits for commits."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.failed: list[tuple[object, TrunklineError]] = []

    def append_done(self, token: object, offset: int) -> None:
        assert offset == 0
        self.done.append(token)

    def append_failed(self, token: object, error: TrunklineError) -> None:
        self.failed.append((token, error))


class Reply:
    """Who waits for a join or a sync of a classic group; it is answered once."""

    def __init__(self) -> None:
        self.answer: JoinReply | SyncReply | TrunklineError | None = None

    def __call__(self, answer: JoinReply | SyncReply | TrunklineError) -> None:
        assert self.answer is None, "it is answered once"
        self.answer = answer

    @property
    def joined(self) -> JoinReply:
        assert isinstance(self.answer, JoinReply), self.answer
        return self.answer

    @property
    def synced(self) -> SyncReply:
        assert isinstance(self.answer, SyncReply), self.answer
        return self.answer
