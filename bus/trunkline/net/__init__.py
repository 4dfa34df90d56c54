"""The I/O engine: one task moves the bytes of all doors.

A trio task for each connection costs 15 to 33 microseconds for a small round trip; one task that waits
on an epoll of its own and calls plain objects costs 2.4 to 3.6, the price of epoll itself. So sockets
belong to :class:`~trunkline.net.reactor.Reactor`, which works in rounds (:mod:`trunkline.rounds`), and
connections are sans-I/O objects (:mod:`trunkline.door`). trio still owns the reactor's task, and
everything that does not happen once per message.

``pollers`` waits for readiness, ``transport`` is one peer's socket (``receiving``: how it is read; ``outbound``: what
waits to be sent), ``tls`` the same through a memory BIO, ``listener`` accepts, ``reactor`` ties them into rounds.
``websocket`` is an adapter between a transport and a connection.
"""
