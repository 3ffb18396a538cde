"""Wait for many sockets at once; what happens on one is told once."""

import select
from enum import Enum, auto

# How many are told at a time.
MOST = 16


class Awaited(Enum):
    """What a socket is to have: bytes that have arrived, or room for bytes."""

    BYTES = auto()
    ROOM = auto()


if hasattr(select, "epoll"):

    class Poll:
        """The poll of Linux (epoll(7))."""

        _EVENTS = {
            Awaited.BYTES: select.EPOLLIN | select.EPOLLONESHOT,
            Awaited.ROOM: select.EPOLLOUT | select.EPOLLONESHOT,
        }

        def __init__(self):
            self._poll = select.epoll()

        def arm(self, descriptor: int, awaited: Awaited) -> None:
            """Let `wait` return the descriptor, once, when it has what is awaited, or is broken."""
            try:
                self._poll.modify(descriptor, self._EVENTS[awaited])
            except FileNotFoundError:  # a new one
                self._poll.register(descriptor, self._EVENTS[awaited])

        def wait(self) -> list[int]:
            """Return some descriptors that are ready; after a signal, perhaps none."""
            return [descriptor for descriptor, _ in self._poll.poll(maxevents=MOST)]

else:

    class Poll:  # type: ignore[no-redef]
        """The poll of macOS and the BSDs (kqueue(2))."""

        _FILTERS = {
            Awaited.BYTES: select.KQ_FILTER_READ,
            Awaited.ROOM: select.KQ_FILTER_WRITE,
        }

        def __init__(self):
            self._poll = select.kqueue()

        def arm(self, descriptor: int, awaited: Awaited) -> None:
            flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
            event = select.kevent(descriptor, self._FILTERS[awaited], flags)
            self._poll.control([event], 0)

        def wait(self) -> list[int]:
            return [event.ident for event in self._poll.control(None, MOST)]
