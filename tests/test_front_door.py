"""Clients that say nothing, send or read slowly, or never close: nobody else notices.

Raw sockets against real processes with the default settings. The others are eight
partners on kept-alive connections who reserve and read, and a balancer that asks for
the health over a new connection again and again.
"""

import contextlib
import re
import resource
import socket
import statistics
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from serving import Answer, Server

from ticketboss.rules import limits

RESERVATIONS = "/api/v1/reservations"
HEALTH = b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
ONE_SEAT = {"partnerId": "abc-corp", "seats": 1}
LIST = b"GET /api/v1/events/node-meetup-2025/reservations?limit=100 HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST /api/v1/reservations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

# Several times what is allowed for, since other things compute here, too.
SLOWER = 5
HEALTH_SECONDS = 2.0
GRACE = 10.0


class Others:
    """Eight partners and a balancer, who work until told to stop and keep the times."""

    def __init__(self, server: Server):
        self._server = server
        self._stop = threading.Event()
        self._times: list[float] = []
        self._health: list[float] = []
        self._failures: list[str] = []
        self._threads = [threading.Thread(target=self._reserve_and_read) for _ in range(8)]
        self._threads.append(threading.Thread(target=self._ask_for_health))

    def _reserve_and_read(self) -> None:
        with contextlib.closing(self._server.client()) as http:
            while not self._stop.is_set():
                started = time.monotonic()
                made = http.post(RESERVATIONS, ONE_SEAT)
                read = http.get(RESERVATIONS)
                self._times.append(time.monotonic() - started)
                self._judge(made, 201, 409)
                self._judge(read, 200)

    def _ask_for_health(self) -> None:
        while not self._stop.wait(0.2):
            started = time.monotonic()
            with contextlib.closing(self._server.client()) as http:
                answer = http.get("/api/v1/health")
            self._health.append(time.monotonic() - started)
            self._judge(answer, 200)

    def _judge(self, answer: Answer, *expected: int) -> None:
        """Note what was not expected.

        But that a database is starved for a moment is not the front door's fault; if it is for
        longer the times tell.
        """
        starved = answer.status == 503 and b'"unavailable"' in answer.body
        if answer.status not in expected and not starved:
            self._failures.append(f"{answer.status} {answer.body!r}")

    def work(self, seconds: float) -> tuple[float, float]:
        """Return the median of their times, and the longest of the balancer's."""
        before = len(self._times), len(self._health)
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(self._times) < before[0] + 16:
            assert time.monotonic() < end + 30, "the others are not served"
            time.sleep(0.05)
        assert self._failures == []
        health = self._health[before[1] :]
        return statistics.median(self._times[before[0] :]), max(health, default=0.0)

    def __enter__(self) -> "Others":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def connect(server: Server, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    # What they do not read is not to pile up at their end either.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sendall(data)
    return client


@pytest.fixture
def crowd():
    """Give a function that opens connections which send the same and stay."""
    with contextlib.ExitStack() as stack:
        yield lambda server, number, data=b"": [
            stack.enter_context(connect(server, data)) for _ in range(number)
        ]


CROWDS = {
    "silent": (200, b""),
    "one byte": (200, b"P"),
    "half a head": (200, HEAD),
    "half a body": (200, HEAD + b"Content-Length: 40\r\n\r\n{"),
    "half a chunk": (200, HEAD + b"Transfer-Encoding: chunked\r\n\r\n28\r\n{"),
    "reads nothing": (60, LIST * 100),
    "never closes": (120, HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")),
    "refused upload that stalls": (60, HEAD + b"Content-Length: 10000000000\r\n\r\n{"),
    "refused chunks that stall": (60, HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n{"),
    "garbage": (200, b"\x16\x03\x01\r\n\r\n"),
    "idle": (200, HEALTH),
}


@pytest.mark.parametrize("kind", CROWDS)
def test_a_crowd_that_stalls_does_not_stop_the_others(server, crowd, kind):
    with Others(server) as others:
        quiet, _ = others.work(1.5)
        crowd(server, *CROWDS[kind])
        median, health = others.work(2.5)
    assert median < SLOWER * quiet
    assert health < HEALTH_SECONDS


LONG = 20.0


@pytest.mark.slow
def test_silent_ones_who_keep_coming_do_not_stop_the_others(server, crowd):
    with Others(server) as others:
        quiet, _ = others.work(LONG / 2)
        crowd(server, 200)
        end = time.monotonic() + LONG
        worst = longest = 0.0
        while time.monotonic() < end:
            crowd(server, 12)
            median, health = others.work(1.0)
            worst, longest = max(worst, median), max(longest, health)
    assert worst < SLOWER * quiet
    assert longest < HEALTH_SECONDS


# What each kind sends now and then, so as not to be silent.
DRIPS = {"one byte": b"O", "half a head": b"X", "half a body": b" ", "half a chunk": b" "}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRIPS)
def test_a_crowd_that_sends_a_byte_now_and_then_does_not_stop_the_others(server, crowd, kind):
    with Others(server) as others:
        quiet, _ = others.work(LONG / 4)
        clients = crowd(server, *CROWDS[kind])
        for _ in range(6):
            median, health = others.work(2.0)
            assert median < SLOWER * quiet
            assert health < HEALTH_SECONDS
            for client in clients:
                with contextlib.suppress(OSError):  # it has been parted with
                    client.send(DRIPS[kind])
        assert wait_for(lambda: not any(held(server, client) for client in clients), 60)


@pytest.mark.slow
def test_two_thousand_idle_connections_do_not_stop_the_others(serve, crowd):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < 4000:
        pytest.skip(f"a process may have {most} files open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = serve()
    with Others(server) as others:
        quiet, _ = others.work(LONG / 4)
        for _ in range(20):
            for client in crowd(server, 100, HEALTH):
                assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        others.work(0)  # it was they who asked much
        median, health = others.work(LONG / 2)
        with connect(server, HEALTH) as newcomer:
            assert newcomer.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
    assert median < SLOWER * quiet
    assert health < HEALTH_SECONDS


def wait_for(seen, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not (result := seen()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return result


def held(server: Server, client: socket.socket) -> bool:
    """Tell whether the server still has its end of a connection."""
    ends = f":{server.port:04X}", f":{client.getsockname()[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any((row[1][-5:], row[2][-5:]) == ends and row[9] != "0" for row in rows)


def cut_off(server: Server) -> Counter:
    """Return how many clients were cut off, by why."""
    with contextlib.closing(server.client()) as client:
        text = client.get("/metrics").body.decode()
    found = re.findall(r'^ticketboss_clients_cut_off_total\{reason="(\w+)"\} (\d+)', text, re.M)
    return Counter({reason: int(count) for reason, count in found})


TIMES = {
    "silent": limits.FIRST_BYTE_PATIENCE,
    "one byte": limits.REQUEST_PATIENCE,
    "half a head": limits.REQUEST_PATIENCE,
    "half a body": limits.REQUEST_PATIENCE,
    "half a chunk": limits.REQUEST_PATIENCE,
    "reads nothing": limits.READING_PATIENCE,
    "never closes": 0,
    "refused upload that stalls": limits.LINGER,
    "refused chunks that stall": limits.LINGER,
    "garbage": limits.LINGER,
}


def test_each_kind_of_stalling_ends_in_its_time_and_is_counted(server):
    before = cut_off(server)
    with contextlib.ExitStack() as stack:
        clients = {kind: stack.enter_context(connect(server, CROWDS[kind][1])) for kind in TIMES}
        waiting = clients.keys() - {"never closes"}
        assert wait_for(lambda: all(held(server, clients[kind]) for kind in waiting))
        began = time.monotonic()
        ended: dict[str, float] = {}
        while len(ended) < len(clients) and time.monotonic() < began + 30:
            for kind, client in clients.items():
                if kind not in ended and not held(server, client):
                    ended[kind] = time.monotonic() - began
                elif kind in DRIPS:
                    # A byte now and then is no reason to wait for longer.
                    with contextlib.suppress(OSError):
                        client.send(DRIPS[kind])
            time.sleep(0.3)
        for kind, seconds in TIMES.items():
            assert seconds <= ended[kind] + 1 < seconds + GRACE, (kind, ended)
        for kind in DRIPS:
            answer = clients[kind].recv(4096)
            assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), (kind, answer)
            assert b'"code": "request_timeout"' in answer
    kinds = {"silent": "silent", "reads nothing": "unread", **dict.fromkeys(DRIPS, "late")}
    assert cut_off(server) - before >= Counter(kinds.values())


def answers(client: socket.socket) -> bytes:
    """Return everything that comes until the server ends the connection."""
    raw = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            raw += part
    return raw


def test_the_longest_idle_make_way_when_there_are_too_many(serve):
    server = serve(WORKERS="1", CONNECTIONS="16")
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(contextlib.closing(server.client())) for _ in range(16)]
        for client in idle:
            assert client.get("/livez").status == 200
        assert idle[0].get("/livez").status == 200  # which is the latest now
        newcomer = stack.enter_context(contextlib.closing(server.client()))
        assert newcomer.get("/livez").status == 200
        assert idle[0].get("/livez").status == 200
        with pytest.raises(ConnectionError):
            idle[1].get("/livez")
        assert cut_off(server)["no_room"] > 0


def test_an_idle_connection_is_closed_after_keepalive(serve):
    server = serve(KEEPALIVE="1")
    with connect(server, HEALTH) as client:
        client.recv(4096)
        began = time.monotonic()
        assert client.recv(4096) == b""
        assert 0.5 < time.monotonic() - began < 1 + GRACE


def test_pipelined_requests_are_answered_in_their_order(server):
    paths = [b"/livez", b"/api/v1/health", b"/nowhere", b"/livez"]
    requests = [b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths * 50]
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(server) as client:
        sender = threading.Thread(target=client.sendall, args=(b"".join(requests) + last,))
        sender.start()
        raw = answers(client)
        sender.join()
    statuses = re.findall(rb"^HTTP/1\.1 (\d+)", raw, re.MULTILINE)
    assert statuses == [b"200", b"200", b"404", b"200"] * 50 + [b"200"]


def test_a_request_may_arrive_byte_by_byte(server):
    body = b'{"partnerId": "abc-corp", "seats": 1}'
    with connect(server) as client:
        for byte in HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body:
            client.send(bytes([byte]))
        assert answers(client).startswith(b"HTTP/1.1 201 CREATED\r\n")
    with connect(server) as client:
        chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nX: y\r\n\r\n"
        for byte in HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunked:
            client.send(bytes([byte]))
        assert answers(client).startswith(b"HTTP/1.1 201 CREATED\r\n")


def test_who_expects_a_100_is_told_to_go_on_or_not_to(server):
    body = b'{"partnerId": "abc-corp", "seats": 1}'
    head = HEAD + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: "
    with connect(server, head + b"%d\r\n\r\n" % len(body)) as client:
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert answers(client).startswith(b"HTTP/1.1 201 CREATED\r\n")
    with connect(server, head + b"1000000\r\n\r\n") as client:
        assert answers(client).startswith(b"HTTP/1.1 413 ")


def test_old_clients_get_what_they_understand(server):
    with connect(server, b"GET /livez HTTP/1.0\r\n\r\n") as client:
        assert answers(client).startswith(b"HTTP/1.1 200 OK\r\n")
    with connect(server, b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n") as client:
        first = client.recv(4096)
        assert b"\r\nConnection: keep-alive\r\n" in first
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in answers(client)


def test_a_head_is_answered_without_a_body(server):
    request = b"HEAD /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(server, request) as client:
        head, _, body = answers(client).partition(b"\r\n\r\n")
        assert body == b""
        assert int(re.search(rb"\r\nContent-Length: (\d+)", head)[1]) > 0


def test_the_answer_to_a_refused_upload_reaches_a_client_that_sends_on(server):
    upload = HEAD + b"Content-Length: 800000\r\n\r\n" + b"x" * 800_000
    for _ in range(5):
        with connect(server) as client:
            client.sendall(upload)  # would fail if the server were gone
            client.shutdown(socket.SHUT_WR)
            assert answers(client).startswith(b"HTTP/1.1 413 ")
