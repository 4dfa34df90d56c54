"""What links of all bridges have in common. A bridge is a plugin (:mod:`trunkline.bridge`); these are its tools.

link        connect, converse until something fails, wait, and again
journal     how a link goes;  pauses: how long to wait before the next attempt
failures    what went wrong;  connecting: a stream to the other system
peer        a connection: a buffer that one task sends, and what is received
origin      where a record came from;  dead_letters: records that cannot be brought over
"""

from trunkline.links.connecting import TlsSettings, WhereTo, connect, read_password
from trunkline.links.dead_letters import DeadLetter, keep_dead_letters
from trunkline.links.failures import ConnectionEnded, LinkFailed, one_failure, reason_of
from trunkline.links.journal import Journal
from trunkline.links.link import Link
from trunkline.links.origin import ORIGIN, origin_of
from trunkline.links.pauses import Pauses
from trunkline.links.peer import Peer, PeerProtocol, open_peer

__all__ = [
    "ORIGIN", "ConnectionEnded", "DeadLetter", "Journal", "Link", "LinkFailed", "Pauses", "Peer", "PeerProtocol",
    "TlsSettings", "WhereTo", "connect", "keep_dead_letters", "one_failure", "open_peer", "origin_of",
    "read_password", "reason_of",
]  # fmt: skip
