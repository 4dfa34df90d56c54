"""Any door behind WebSocket: bytes in binary messages in place of a bare TCP stream.

``greeting`` reads the HTTP request and decides, ``frames`` is the codec, ``connection`` puts a door's
connection behind both. It is an adapter between a transport and a connection, both sans-I/O: TLS, limits
and rounds are the reactor's as ever.

A door offers this with :class:`trunkline.door.WebSocketOffer`. Its messages carry a stream of bytes, as
MQTT's do (MQTT 5.0, 6): where one ends means nothing, so nothing is kept until a message or a frame is
complete, and their size needs no limit.
"""
