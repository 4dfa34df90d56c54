"""Live delivery: each committed batch is decoded once, and one index says who wants each record.

A :class:`LiveTail` follows one partition for all subscribers of the broker. While a subscriber keeps
up it is *live*: records go to it in the round that commits them. When its ``deliver`` says "stop" (its
window or its socket is full) it is *behind*: the tail remembers the next offset for it and nothing
else. When it says :meth:`LiveTail.resume` it reads the log from there at its own pace, and is live
again once it has reached the high watermark. The offsets make that free of gaps and doubles: a live
subscriber has been offered everything below the high watermark, a lagging one everything below its cursor.

So a slow subscriber costs a cursor and at most one decoded chunk, never a queue. A filter added while
behind gets nothing older than itself: each filter has a start offset. A subscriber may also ask to begin in the
past; then it is behind from the first moment.

Who never stops, and asks how far it is only when it could ask the partition, may *watch* instead (:class:`Watcher`): it
stands in the index itself, and the tail keeps nothing else of it.

**Early.** A door may offer a record that is staged and not committed yet (:meth:`LiveTail.offer_early`), if it promises
nothing about it: an MQTT message with QoS 0 need not wait for the disk. It goes to those who are live then, and is not
offered again when it is committed:

* Who was behind then reads it from the log.
* Who becomes live, or subscribes, while early records are not committed yet is *late*: it is offered nothing early,
  and everything when it is committed, until no early record is left. So is, always, who does not take them early.
* Who stops while early records are not committed has taken them, and skips them when it reads the log.
"""

from __future__ import annotations

from trunkline.live.chunks import Chunk, Chunks
from trunkline.live.subscriber import Delivery, LiveSubscriber
from trunkline.live.tail import LiveStatistics, LiveTail
from trunkline.live.watcher import Watcher

__all__ = ["Chunk", "Chunks", "Delivery", "LiveStatistics", "LiveSubscriber", "LiveTail", "Watcher"]
