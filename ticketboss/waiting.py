"""Where a thread tells that it is about to wait, so that another may go on in its place."""

import threading


class _Thread(threading.local):
    """What the current thread does before it waits for anybody else: nothing, unless it says."""

    @staticmethod
    def step_aside() -> None:
        pass


here = _Thread()
