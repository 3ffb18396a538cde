"""The threads of a worker: one at a time is at the poll, until it has to wait."""

import threading

import pytest

from ticketboss import waiting
from ticketboss.serving.worker import Server

SECONDS = 30


class Worker:
    """Serves what the test gives it: each is called by the thread that has come to it."""

    def __init__(self):
        self.served = threading.Semaphore(0)
        self.inside = 0
        self.most_inside = 0
        self._tasks = []
        self._there_are = threading.Semaphore(0)

    def give(self, task) -> None:
        self._tasks.append(task)
        self._there_are.release()

    def serve_next(self):
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self._there_are.acquire()
        self.inside -= 1
        self._tasks.pop(0)()
        self.served.release()


@pytest.fixture
def worker():
    worker, at_the_poll = Worker(), threading.Lock()
    for _ in range(3):
        Server(worker, at_the_poll).start()
    return worker


def test_one_thread_goes_on_for_as_long_as_it_need_not_wait(worker):
    names = set()
    for _ in range(100):
        worker.give(lambda: names.add(threading.current_thread().name))
        assert worker.served.acquire(timeout=SECONDS)
    assert len(names) == worker.most_inside == 1


def test_another_takes_the_place_of_one_who_waits(worker):
    end = threading.Event()

    def wait():
        waiting.here.step_aside()
        waiting.here.step_aside()  # once more is nothing more
        end.wait(SECONDS)

    for _ in range(2):
        worker.give(wait)
    worker.give(lambda: None)
    assert worker.served.acquire(timeout=SECONDS), "all three were needed"
    end.set()
    for _ in range(2):
        assert worker.served.acquire(timeout=SECONDS)
    worker.give(lambda: None)
    assert worker.served.acquire(timeout=SECONDS)
    assert worker.most_inside == 1


def test_a_thread_of_nobody_waits_as_it_likes():
    waiting.here.step_aside()
