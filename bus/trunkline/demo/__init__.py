"""``trunkline demo``: a real data set, real MQTT clients, and a broker that is killed while they publish.

Three parties, as in real use: a broker in a process of its own (:mod:`.broker_process`), unmodified paho-mqtt
clients that publish (:mod:`.devices`), and readers that use the native client (:mod:`.readers`). They meet only
over sockets. :mod:`.run` lets them go, kills the broker midway and starts it again; :mod:`.tally` then
compares what the devices had acknowledged with what the readers got and with what the log holds.

Every reading carries its place in its series, so that a missing one and a repeated one can be told apart.
"""
