"""Sessions: filtered cursors over logs that outlive the connection that uses them."""

from trunkline.sessions.sessions import Sessions

__all__ = ["Sessions"]
