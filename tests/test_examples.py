"""The clients in docs/examples, as they stand: they reserve, retry as they should, and follow."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from serving import ROOT
from test_conditions import eventually

EXAMPLES = ROOT / "docs" / "examples"
RESERVATIONS = "/api/v1/reservations"
EVENT = "/api/v1/events/node-meetup-2025"
SECONDS = 60  # no wait takes this long


def _node() -> bool:
    """Tell whether there is a Node.js with fetch."""
    if not shutil.which("node"):
        return False
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
    return int(re.match(r"v(\d+)", version)[1]) >= 18


CLIENTS = [
    pytest.param([sys.executable, str(EXAMPLES / "client.py")], id="python"),
    pytest.param(
        ["node", str(EXAMPLES / "client.mjs")],
        id="javascript",
        marks=pytest.mark.skipif(not _node(), reason="Node.js 18 or newer is not installed"),
    ),
]


class Front(ThreadingHTTPServer):
    """Stands before the service and does to the first requests what a bad network does.

    `faults` are a status, which is answered without the service; "lost", which has the
    service do it and hangs up without a word; or "torn", with half of its answer.
    """

    def __init__(self, server, faults):
        super().__init__(("127.0.0.1", 0), Handler)
        self.service, self.faults, self.requests = server, list(faults), []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        self.server.requests.append((self.command, self.path, body, self.headers))
        fault = self.server.faults.pop(0) if self.server.faults else None
        self.close_connection = True
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Retry-After", "0")
            self.end_headers()
            return
        with contextlib.closing(self.server.service.client()) as client:
            answer = client.call(self.command, self.path, body, dict(self.headers))
        if fault == "lost":
            return
        self.send_response(answer.status)
        for name in ("Content-Type", "Content-Length", "ETag"):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.end_headers()
        self.wfile.write(answer.body[:10] if fault == "torn" else answer.body)

    do_GET = do_POST = do_DELETE = do  # noqa: N815 (the names that http.server looks for)

    def log_message(self, *_):
        pass


@pytest.fixture
def front(server):
    """Give a function that puts a front before the service."""
    with contextlib.ExitStack() as stack:

        def front(*faults):
            made = stack.enter_context(Front(server, faults))
            thread = threading.Thread(target=made.serve_forever, args=(0.02,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(made.shutdown)
            return made

        yield front


def environment(url):
    return {**os.environ, "TICKETBOSS_URL": url, "NO_PROXY": "*", "no_proxy": "*"}


def run(client, url, *arguments):
    """Run a client to its end; return its exit status, its lines as JSON, and what it says."""
    done = subprocess.run(
        [*client, *map(str, arguments)],
        env=environment(url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reserves_and_cancels(client, front, server, verify):
    url = front().url
    status, (made,), _ = run(client, url, "reserve", "abc-corp", 3, "order-1")
    assert (status, made["seats"], made["status"]) == (0, 3, "confirmed")
    assert run(client, url, "reserve", "abc-corp", 3, "order-1") == (0, [made], "")
    for _ in range(2):  # the second finds nothing left to cancel, which is as good
        assert run(client, url, "cancel", made["reservationId"]) == (0, [], "")
    status, _, said = run(client, url, "cancel", "01900000-0000-7000-8000-000000000000")
    assert (status, said) == (1, "not_found: Reservation not found\n")
    assert server.client().get(RESERVATIONS).json["version"] == 2
    assert verify()[0] == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_shows_its_key_where_the_service_wants_one(client, serve, create_key, monkeypatch):
    url = f"http://127.0.0.1:{serve(AUTH='keys').port}"
    status, _, said = run(client, url, "reserve", "abc-corp", 3, "order-1")
    assert (status, said.partition(":")[0]) == (1, "unauthorized")
    monkeypatch.setenv("TICKETBOSS_KEY", create_key("abc-corp"))
    status, (made,), _ = run(client, url, "reserve", "abc-corp", 3, "order-1")
    assert (status, made["seats"]) == (0, 3)
    assert run(client, url, "cancel", made["reservationId"]) == (0, [], "")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "faults", [["lost"], ["torn"], [503], [429, 502, 504], ["lost", 503, "torn", "lost"]], ids=str
)
def test_a_client_whose_answer_is_lost_asks_again_with_the_same_key(
    client, front, server, verify, faults
):
    network = front(*faults)
    status, (made,), _ = run(client, network.url, "reserve", "abc-corp", 3, "order-1")
    assert (status, made["seats"]) == (0, 3)
    assert len(network.requests) == len(faults) + 1
    assert {headers["Idempotency-Key"] for *_, headers in network.requests} == {"order-1"}
    assert len({body for _, _, body, _ in network.requests}) == 1
    assert server.client().get(RESERVATIONS).json["reservationCount"] == 1
    assert verify()[0] == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_whose_cancel_is_lost_finds_the_seats_given_back(client, front, server):
    made = server.client().post(RESERVATIONS, {"partnerId": "abc-corp", "seats": 3}).json
    network = front("lost")
    assert run(client, network.url, "cancel", made["reservationId"]) == (0, [], "")
    assert [method for method, *_ in network.requests] == ["DELETE"] * 2
    assert server.client().get(RESERVATIONS).json["version"] == 2


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_is_refused_says_why_and_does_not_insist(client, front, sql):
    sql("UPDATE events SET initial_seats = 2, total_seats = 2, available_seats = 2")
    network = front()
    status, lines, said = run(client, network.url, "reserve", "abc-corp", 3, "order-1")
    assert (status, lines, said) == (1, [], "sold_out: Not enough seats left\n")
    assert len(network.requests) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gives_up_where_nobody_answers(client, front):
    network = front(*[503] * 20)
    status, lines, said = run(client, network.url, "reserve", "abc-corp", 3, "order-1")
    assert (status, lines, said) == (1, [], "no answer in 6 tries: status 503\n")
    assert len(network.requests) == 6


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_follows_the_feed_through_lost_answers_and_misses_nothing(client, front, server):
    http = server.client()
    place = http.post(RESERVATIONS, {"partnerId": "abc-corp", "seats": 3}).headers["Location"]
    network = front("lost", 503)
    following = subprocess.Popen(
        [*client, "follow", "0"],
        env=environment(network.url),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    with following:
        try:
            lines = [json.loads(following.stdout.readline())]
            # Until it has been told once that there is nothing new.
            eventually(lambda: any("If-None-Match" in headers for *_, headers in network.requests))
            network.faults += ["torn", "lost"]
            assert http.patch(place, {"seats": 1}).status == 200
            assert http.delete(place).status == 204
            lines += [json.loads(following.stdout.readline()) for _ in range(2)]
        finally:
            following.kill()
    assert lines == http.get(EVENT + "/changes").json["items"]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_knows_more_than_the_service_stops(client, server):
    url = f"http://127.0.0.1:{server.port}"
    status, lines, said = run(client, url, "follow", 500)
    assert (status, lines) == (1, [])
    assert said.startswith("cursor_ahead: ")
