"""Real proxies in front, with the files of deploy/ as an operator copies them."""

import contextlib
import http.client
import re
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from partners import EVENT, Partners
from serving import ROOT, Client, Server, free_port, wait_for

from ticketboss.rules import limits

RESERVATIONS = "/api/v1/reservations"
PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
INSTANCES = ("10.0.0.11:8080", "10.0.0.12:8080")
HOST = "tickets.example"


class TlsClient(Client):
    """One kept-alive connection to the proxy, which has made its own certificate."""

    def __init__(self, port: int, certificate: Path):
        trust = ssl.create_default_context(cafile=certificate)
        trust.check_hostname = False
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=trust)


class Proxy:
    """A proxy in front of two servers."""

    def __init__(self, folder: Path, ports: list[int], rate: int):
        self.program = find(self.name)
        self.folder = folder
        self.port = free_port()
        self.certificate = folder / "certificate"
        make_certificate(self.certificate)
        file = ROOT / "deploy" / self.file
        text = file.read_text("utf-8")
        for ours, theirs in zip(ports, INSTANCES, strict=True):
            assert theirs in text
            text = text.replace(theirs, f"127.0.0.1:{ours}")
        rates = {told: re.sub(r"\d+", str(rate), told) for told in self.rates}
        for here, there in {**self.places(), **rates}.items():
            assert here in text
            text = text.replace(here, str(there))
        (folder / self.file).write_text(text)
        self.process = None

    def check(self) -> None:
        """Let the program itself judge the file."""
        done = subprocess.run(
            [self.program, *self.checking()], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "warn" not in done.stderr.lower(), done.stderr

    def client(self) -> Client:
        return TlsClient(self.port, self.certificate)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), contextlib.closing(self.client()) as client:
            return client.get("/api/v1/health").status == 200
        return False

    def __enter__(self) -> "Proxy":
        self.log = (self.folder / "log").open("w+")
        self.process = subprocess.Popen(
            [self.program, *self.serving()],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
        self.log.close()


class Nginx(Proxy):
    name = "nginx"
    file = "nginx.conf"
    rates = ("rate=200r/s", "burst=400")

    def places(self) -> dict:
        return {
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "/etc/ssl/tickets.example/fullchain.pem": self.certificate,
            "/etc/ssl/tickets.example/privkey.pem": self.certificate,
        }

    def main(self) -> list[str]:
        """Return the arguments that name a file with what a distribution's own has."""
        temporary = "\n".join(
            f"{kind}_temp_path {self.folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "main").write_text(
            f"daemon off; master_process off; pid {self.folder}/pid; error_log stderr;"
            f" events {{}} http {{ access_log off; {temporary} include {self.file}; }}"
        )
        return ["-p", str(self.folder), "-c", str(self.folder / "main")]

    def checking(self) -> list[str]:
        return [*self.main(), "-t", "-q"]

    def serving(self) -> list[str]:
        return self.main()

    def knows(self, number: int) -> bool:
        return True  # it asks those who are there each time


class Haproxy(Proxy):
    name = "haproxy"
    file = "haproxy.cfg"
    rates = ("gt 200",)

    def places(self) -> dict:
        self.socket = self.folder / "s"
        return {
            "bind :443 ssl": f"bind 127.0.0.1:{self.port} ssl",
            "/etc/ssl/tickets.example/haproxy.pem": self.certificate,
            "/run/haproxy/admin.sock": self.socket,
        }

    def checking(self) -> list[str]:
        return ["-c", "-q", "-f", str(self.folder / self.file)]

    def serving(self) -> list[str]:
        return ["-db", "-f", str(self.folder / self.file)]

    def knows(self, number: int) -> bool:
        """Tell whether it has found out that an instance is there again."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            client.sendall(b"show stat\n")
            rows = client.makefile().read().splitlines()
        (row,) = (row for row in rows if row.startswith(f"ticketboss,{['one', 'two'][number]},"))
        return row.split(",")[17] == "UP"


def find(program: str) -> str:
    """Return where a program is, or skip the test."""
    place = shutil.which(program, path=PATH)
    if place is None:
        pytest.skip(f"{program} is not installed")
    return place


def make_certificate(file: Path) -> None:
    """Write a key and a certificate for it into one file."""
    command = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={HOST} -keyout {file}.key"
    made = subprocess.run([find("openssl"), *command.split()], capture_output=True, check=True)
    file.write_bytes(made.stdout + Path(f"{file}.key").read_bytes())


@pytest.fixture(params=[Nginx, Haproxy], ids=lambda proxy: proxy.name)
def in_front(request, tmp_path):
    """Give a function that starts a proxy in front of servers at two ports."""
    with contextlib.ExitStack() as stack:

        def start(ports: list[int], rate: int = 100_000) -> Proxy:
            proxy = request.param(tmp_path, ports, rate)
            proxy.check()
            stack.enter_context(proxy)
            assert wait_for(proxy.answers), (proxy.folder / "log").read_text()
            return proxy

        yield start


@pytest.fixture
def behind(in_front, server):
    """Give a client of a service that stands behind a proxy."""
    with contextlib.closing(in_front([server.port, server.port]).client()) as client:
        yield client


def test_behind_a_path_a_location_leads_to_what_was_made(behind):
    made = behind.post("/tickets" + RESERVATIONS, {"partnerId": "abc-corp", "seats": 3})
    place = made.headers["Location"]
    assert place == f"/tickets{RESERVATIONS}/{made.json['reservationId']}"
    assert behind.get(place).json == made.json
    page = {"Origin": f"https://{HOST}", "Host": HOST}
    assert behind.call("PATCH", place, {"seats": 2}, page).status == 200
    elsewhere = {**page, "Origin": "https://elsewhere.example"}
    assert behind.call("DELETE", place, headers=elsewhere).json["code"] == "cross_site"
    assert behind.delete(place + "/").status == 204


def test_without_a_path_a_location_is_as_the_service_says_it(behind):
    made = behind.post(RESERVATIONS, {"partnerId": "abc-corp", "seats": 3})
    assert made.headers["Location"] == f"{RESERVATIONS}/{made.json['reservationId']}"
    assert behind.get(made.headers["Location"]).headers["ETag"] == '"1"'


def test_a_body_of_any_size_that_is_taken_passes_and_a_larger_one_is_told_so(behind):
    name = "\N{LATIN SMALL LETTER A WITH DIAERESIS}" * 64
    operation = {
        "op": "reserve",
        "eventId": "node-meetup-2025",
        "partnerId": name,
        "seats": 1,
        "idempotencyKey": "k" * 255,
    }
    many = {"operations": [operation] * limits.BATCH_OPERATIONS}
    assert behind.post("/api/v1/batch", many).status == 200
    large = {"partnerId": "x" * limits.BODY_BYTES, "seats": 1}
    refused = behind.post(RESERVATIONS, large)
    assert (refused.status, refused.json["code"]) == (413, "payload_too_large")


def test_one_who_asks_too_often_is_refused_and_the_others_are_not(in_front, server):
    with contextlib.closing(in_front([server.port, server.port], rate=1).client()) as client:

        def ask(**headers) -> int:
            return client.get("/livez", **headers).status

        for one in ({"authorization": "Bearer one"}, {}):
            assert ask(**one) == 200
            assert wait_for(lambda one=one: ask(**one) == 429)
            assert ask(authorization=f"Bearer another one than {one}") == 200
            time.sleep(2.5)  # the rate is one by the second
            assert ask(**one) == 200


@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_rolling_restart_loses_nothing(in_front, serving_dsn, dsn, store, rounds):
    store.create_event(EVENT, "Long sale", 1_000_000)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(serving_dsn)) for _ in range(2)]
        proxy = in_front([server.port for server in servers])
        with Partners(dsn, proxy.client) as partners:
            for _ in range(rounds):
                for server in servers:
                    assert wait_for(lambda: all(map(proxy.knows, range(2))))
                    partners.go_on()
                    assert server.stop() == 0
                    partners.go_on()
                    server.start()
            partners.go_on()
