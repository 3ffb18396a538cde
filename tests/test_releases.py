"""Two releases beside each other: a deploy, seen from a database under load."""

import contextlib
import shutil
import threading
from pathlib import Path

import pytest
from serving import ROOT, Server, run_sql

from ticketboss.data.database import Database
from ticketboss.data.statements import functions
from ticketboss.data.verify import replay_ledgers

EVENT = "/api/v1/reservations"


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Give a copy of the code, laid out as the wheel is, to make another release of."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ticketboss", tmp_path / "ticketboss", ignore=ignore)
    shutil.copytree(ROOT / "sql", tmp_path / "ticketboss" / "sql", ignore=ignore)
    return tmp_path


class Buyer(threading.Thread):
    """Reserves, reduces, holds, confirms and gives back, over and over."""

    def __init__(self, server: Server):
        super().__init__()
        self.server = server
        self.stopped = False
        self.calls, self.failures = 0, []
        self._called = threading.Condition()

    def run(self):
        with contextlib.closing(self.server.client()) as http:
            try:
                while not self.stopped:
                    self._buy(http)
            except Exception as error:
                self.failures.append(error)

    def _buy(self, http) -> None:
        order = {"partnerId": "abc-corp", "seats": 2}
        self._expect(200, http.get, EVENT)
        sale = self._expect(201, http.post, EVENT, order).headers["Location"]
        self._expect(200, http.patch, sale, {"seats": 1})
        self._expect(204, http.delete, sale)
        hold = self._expect(201, http.post, EVENT, {**order, "holdSeconds": 60}).headers["Location"]
        self._expect(200, http.post, hold + "/confirm")
        self._expect(204, http.delete, hold)

    def _expect(self, status: int, call, *arguments):
        answer = call(*arguments)
        assert answer.status == status, (answer.status, answer.body)
        with self._called:
            self.calls += 1
            self._called.notify_all()
        return answer

    def wait_for_calls(self, more: int) -> None:
        """Wait until so many more calls have been answered, or one has failed."""
        with self._called:
            aim = self.calls + more
            assert self._called.wait_for(lambda: self.calls >= aim or self.failures, timeout=30)


@contextlib.contextmanager
def sale(*servers: Server):
    """Sell through servers, before, while and after the block runs. Nothing may fail."""
    buyers = [Buyer(server) for server in servers for _ in range(3)]
    for buyer in buyers:
        buyer.start()
    try:
        for buyer in buyers:
            buyer.wait_for_calls(50)
        yield
        for buyer in buyers:
            buyer.wait_for_calls(50)
    finally:
        for buyer in buyers:
            buyer.stopped = True
        for buyer in buyers:
            buyer.join()
    assert [failure for buyer in buyers for failure in buyer.failures] == []


def differences(dsn: str) -> list[str]:
    """Return everything that the ledgers, replayed, find wrong."""
    return [found for *_, wrong in replay_ledgers(Database(dsn, size=1)) for found in wrong]


def test_releases_with_different_functions_sell_beside_each_other(empty_database, checkout):
    heart = checkout / "ticketboss" / "sql" / "functions" / "write_batch.sql"
    heart.write_text(heart.read_text().replace("\nBEGIN\n", "\nBEGIN\n    PERFORM 'otherwise';\n"))
    dsn = empty_database + "&options=-ctrack_functions%3Dall"
    with Server(dsn, WORKERS="1") as ours, Server(dsn, checkout, WORKERS="1") as theirs:
        with sale(ours, theirs):
            pass
        assert (ours.stop(), theirs.stop()) == (0, 0)
    called = run_sql(dsn, "SELECT funcname, calls FROM pg_stat_user_functions")
    assert len(called) == 2
    assert functions()["write_batch"].name in dict(called)
    assert differences(dsn) == []
    assert all(calls > 10 for _, calls in called), called
