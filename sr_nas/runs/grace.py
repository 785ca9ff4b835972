"""An end in words for a process that cannot stop cleanly any more."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_after_a_signal(seconds: float, text: str) -> Iterator[None]:
    """Print ``text`` and end the process where the block still runs so long after SIGTERM or SIGINT.

    A call that waits for a GPU which waits for another process lets no signal handler of Python's run, so a thread waits
    for what the interpreter writes to its wake-up file at once.

    Args:
        seconds: less than the 30 that torchrun leaves its processes between SIGTERM and SIGKILL.
        text: for the standard error stream.
    """
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    previous = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    ended = threading.Event()

    def watch() -> None:
        while receiving.recv(1)[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        if not ended.wait(seconds):
            print(text, file=sys.stderr, flush=True)
            os._exit(1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous)
        sending.send(bytes([signal.SIGTERM]))
        thread.join()
        sending.close()
        receiving.close()
