"""Queues: an index over the records of one or several topics, with a state for each entry."""
