"""The codec of Kafka's messages: a module for each API, made by :mod:`trunkline_kafka.generate`."""
