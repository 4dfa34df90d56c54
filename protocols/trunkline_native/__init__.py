"""The native protocol, ``trunkline://``: the door, and in :mod:`trunkline_native.client` the client.

The wire format is in ``docs/protocol-native.md``. Imports point inward: ``serve`` -> ``connection`` ->
``streams``, ``control`` -> ``codec`` -> ``frames``. The client shares only ``codec`` and the frames with the door.

    frames              of all (header: what they are made from), group_frames, queue_frames
    connection          one client; streams: its readers; control: requests that may wait; bridge: the core's words
    views               its part in groups and queues, made when it has one: groups, and queues with queue_control and
                        queue_bridge
    plugin, serve, settings  the door
"""
