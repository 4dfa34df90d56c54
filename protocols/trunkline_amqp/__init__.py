"""AMQP 0-9-1 with RabbitMQ's extensions for Trunkline: exchanges and queues on the log.

codec        fields, methods, content, frames: bytes and methods only; used by a server and by a client
errors       what is wrong, with the standard's reply codes
"""
