"""The broker: topics, stores, doors and the reactor, put together.

* :mod:`~trunkline.broker.opening`: how it comes to be and how it ends. :func:`open_broker` is the one way to get one,
  in a program, a test, or ``trunkline serve``.
* :mod:`~trunkline.broker.broker`: what it can be asked for while it runs.
"""

from trunkline.broker.broker import Broker, BrokerStatistics
from trunkline.broker.opening import open_broker
from trunkline.publishing import PublishedRecord

__all__ = ["Broker", "BrokerStatistics", "PublishedRecord", "open_broker"]
