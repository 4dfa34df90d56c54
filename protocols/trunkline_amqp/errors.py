"""What can go wrong in AMQP, with the reply codes that the standard gives for it (AMQP 0-9-1, 1.3 "constants").

A *soft* error ends the channel, a *hard* one the connection. Which one it is goes by the code, except that whoever
raises it may say otherwise.
"""

from __future__ import annotations

from typing import Final

from trunkline.errors import RemoteProtocolError

__all__ = ["AmqpError", "Reply", "hard"]


class Reply:
    """Reply codes."""

    SUCCESS: Final = 200
    CONTENT_TOO_LARGE: Final = 311
    NO_ROUTE: Final = 312
    NO_CONSUMERS: Final = 313
    CONNECTION_FORCED: Final = 320
    INVALID_PATH: Final = 402
    ACCESS_REFUSED: Final = 403
    NOT_FOUND: Final = 404
    RESOURCE_LOCKED: Final = 405
    PRECONDITION_FAILED: Final = 406
    FRAME_ERROR: Final = 501
    SYNTAX_ERROR: Final = 502
    COMMAND_INVALID: Final = 503
    CHANNEL_ERROR: Final = 504
    UNEXPECTED_FRAME: Final = 505
    RESOURCE_ERROR: Final = 506
    NOT_ALLOWED: Final = 530
    NOT_IMPLEMENTED: Final = 540
    INTERNAL_ERROR: Final = 541


_NAMES: Final = {code: name for name, code in vars(Reply).items() if isinstance(code, int)}
_SOFT: Final = (311, 312, 313, 403, 404, 405, 406)


class AmqpError(RemoteProtocolError):
    """A mistake of the peer, to be told in a channel.close or connection.close.

    Attributes:
      reply_code: one of :class:`Reply`.
      text: what is wrong, for people.
      is_hard: it ends the connection, not only the channel.
      class_id, method_id: of the method that failed; 0 if there is none. Whoever dispatches fills them in.
    """

    def __init__(
        self, reply_code: int, text: str, *, is_hard: bool | None = None, class_id: int = 0, method_id: int = 0
    ) -> None:
        super().__init__(text)
        self.reply_code = reply_code
        self.text = text
        self.is_hard = reply_code not in _SOFT if is_hard is None else is_hard
        self.class_id = class_id
        self.method_id = method_id

    def __str__(self) -> str:
        return f"{self.reply_code} {self.reply_text}"

    @property
    def reply_text(self) -> str:
        """As clients expect it, and at most what a short string holds: ``NOT_FOUND - no queue 'x' in vhost '/'``."""
        text = f"{_NAMES.get(self.reply_code, 'ERROR')} - {self.text}".encode("utf-8", "replace")[:255]
        return text.decode("utf-8", "ignore")


def hard(reply_code: int, text: str) -> AmqpError:
    """An error that ends the connection."""
    return AmqpError(reply_code, text, is_hard=True)
