"""What batches of 100 KB cost a program that does the least with them: the floor under a broker on this machine.

    floor.py                 20,000 batches from 4 connections, 8 each on their way, as in kafka-large
    floor.py --drop          the pages of what is synced leave the page cache, so that new ones need not be found

It receives each batch right where it stays, computes its CRC-32C, writes all that has come with one ``pwritev``, has a
thread call ``fdatasync`` while more comes, and answers: no protocol, no partitions, no offsets. Prints one line of
JSON; ``cpu_us`` is its own processor time for a batch, user and system, both threads.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import queue
import resource
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time

from crc32c import crc32c

from probe import hard_limit

ANSWER = b"x" * 61  # as long as a Produce answer
ROUND_BYTES = 256 * 1024  # read from a connection in one go
KEPT_BYTES = 64 * 1024 * 1024
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1


class Peer:
    """One connection, whose batches all have the same size."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        self.sock = sock
        self._size = size
        self._begin()

    def _begin(self) -> None:
        self._batch = memoryview(bytearray(self._size))
        self._have = 0

    def read(self) -> list[memoryview]:
        """The batches that are whole now."""
        batches: list[memoryview] = []
        left = ROUND_BYTES
        while left > 0:
            room = self._batch[self._have :]
            try:
                size = self.sock.recv_into(room)
            except BlockingIOError:
                break
            if not size:
                raise ConnectionError("the load has ended early")
            self._have += size
            left -= size
            if size < len(room):
                break
            crc32c(self._batch)
            batches.append(self._batch)
            self._begin()
        return batches


class Server:
    """One file, one thread that reads and writes, one that syncs."""

    def __init__(self, fd: int, peers: list[Peer], count: int, *, drops: bool) -> None:
        self._fd = fd
        self._peers = {peer.sock.fileno(): peer for peer in peers}
        self._count = count
        self._drops = drops
        self._epoll = select.epoll()
        self._done = os.eventfd(0, os.EFD_NONBLOCK)
        self._jobs: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._synced = self._dropped = 0
        for number in (self._done, *self._peers):
            self._epoll.register(number, select.EPOLLIN)

    def _sync(self) -> None:
        while (position := self._jobs.get()) is not None:
            os.fdatasync(self._fd)
            self._synced = position
            os.eventfd_write(self._done, 1)

    def run(self) -> int:
        """Until all batches are answered; return how often it synced."""
        thread = threading.Thread(target=self._sync)
        thread.start()
        waiting: list[Peer] = []  # written, one entry for each batch
        group: list[Peer] = []  # being synced
        position = answered = groups = 0
        while answered < self._count:
            batches: list[memoryview] = []
            for number, _ in self._epoll.poll():
                if number != self._done:
                    peer = self._peers[number]
                    found = peer.read()
                    batches += found
                    waiting += [peer] * len(found)
                    continue
                os.eventfd_read(number)
                for peer in set(group):
                    peer.sock.send(ANSWER * group.count(peer))
                answered += len(group)
                group = []
            if batches:
                position += os.pwritev(self._fd, batches, position)
            if waiting and not group:
                group, waiting = waiting, []
                groups += 1
                self._jobs.put(position)
            if self._drops and self._synced - self._dropped >= 2 * KEPT_BYTES:
                os.posix_fadvise(self._fd, 0, self._synced - KEPT_BYTES, os.POSIX_FADV_DONTNEED)
                self._dropped = self._synced - KEPT_BYTES
        self._jobs.put(None)
        thread.join()
        return groups


def serve(arguments: argparse.Namespace) -> None:
    libc = ctypes.CDLL(None)  # as `trunkline serve` has it
    libc.mallopt(M_MMAP_THRESHOLD, 64 * 1024 * 1024)
    libc.mallopt(M_TRIM_THRESHOLD, 256 * 1024 * 1024)
    listener = socket.create_server(("127.0.0.1", 0))
    command = [sys.executable, __file__, "--load", str(listener.getsockname()[1]), *sys.argv[1:]]
    with subprocess.Popen(command) as load, tempfile.TemporaryFile(dir=arguments.dir) as file:
        peers = []
        for _ in range(arguments.conns):
            sock, _ = listener.accept()
            sock.setblocking(False)
            peers.append(Peer(sock, arguments.size))
        server = Server(file.fileno(), peers, arguments.count, drops=arguments.drop)
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        groups = server.run()
        after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - start
        assert load.wait() == 0
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    print(
        json.dumps(
            {
                "batches": arguments.count,
                "secs": round(seconds, 3),
                "cpu_us": round((user + system) / arguments.count * 1e6, 1),
                "system_us": round(system / arguments.count * 1e6, 1),
                "GB_per_cpu_s": round(arguments.count * arguments.size / (user + system) / 1e9, 3),
                "batches_per_sync": round(arguments.count / groups, 1),
            }
        )
    )


def load(arguments: argparse.Namespace) -> None:
    """Keep ``window`` batches on their way on each connection."""
    batch = os.urandom(arguments.size)
    poll = select.epoll()
    unsent: dict[int, memoryview] = {}
    socks: dict[int, socket.socket] = {}
    to_send = arguments.count // arguments.conns
    left = {}
    for _ in range(arguments.conns):
        sock = socket.create_connection(("127.0.0.1", arguments.load))
        sock.setblocking(False)
        number = sock.fileno()
        socks[number], left[number] = sock, to_send - arguments.window
        unsent[number] = memoryview(batch * arguments.window)
        poll.register(number, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    unanswered = arguments.count * len(ANSWER)
    partial = dict.fromkeys(socks, 0)
    while unanswered:
        for number, _ in poll.poll():
            try:
                size = len(socks[number].recv(65536))
                unanswered -= size
                answers, partial[number] = divmod(partial[number] + size, len(ANSWER))
                more = min(answers, left[number])
                left[number] -= more
                unsent[number] = memoryview(b"".join((unsent[number], batch * more)))
            except BlockingIOError:
                pass
            while unsent[number]:
                try:
                    unsent[number] = unsent[number][socks[number].send(unsent[number]) :]
                except BlockingIOError:
                    break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--count", type=int, default=20_000, help="batches; a multiple of the connections")
    parser.add_argument("-s", "--size", type=int, default=100_000)
    parser.add_argument("--conns", type=int, default=4)
    parser.add_argument("--window", type=int, default=8, help="at most --count divided by --conns")
    parser.add_argument("--drop", action="store_true", help="take what is synced out of the page cache, 64 MiB behind")
    parser.add_argument("--dir", help="where the file is  [default: the temporary directory]")
    parser.add_argument("--load", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("-t", "--limit", type=float, default=120, help="time limit, seconds")
    arguments = parser.parse_args()
    hard_limit(arguments.limit)
    if arguments.load:
        load(arguments)
    else:
        serve(arguments)


if __name__ == "__main__":
    main()
