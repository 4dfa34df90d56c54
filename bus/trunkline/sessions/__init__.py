"""Sessions: filtered cursors over logs that outlive the connections that use them.

* :mod:`~trunkline.sessions.sessions`: all of them; ``broker.sessions``. :mod:`~trunkline.sessions.known`: which there
  are; :mod:`~trunkline.sessions.checkpoints`: when they are stored.
* :mod:`~trunkline.sessions.session`: what an attached connection holds; :mod:`~trunkline.sessions.owner`: what it
  offers.
* :mod:`~trunkline.sessions.state`: a session in use; :mod:`~trunkline.sessions.serving`: what an attached one is due;
  :mod:`~trunkline.sessions.offline`: one that nobody is attached to.
* :mod:`~trunkline.sessions.window`, :mod:`~trunkline.sessions.references`: what is not finished, what is not given.
* :mod:`~trunkline.sessions.stored`: the formats.
"""

from trunkline.sessions.description import SessionDescription
from trunkline.sessions.owner import SessionOwner
from trunkline.sessions.session import Session
from trunkline.sessions.sessions import Sessions
from trunkline.sessions.state import FilterName
from trunkline.sessions.window import Unfinished

__all__ = ["FilterName", "Session", "SessionDescription", "SessionOwner", "Sessions", "Unfinished"]
