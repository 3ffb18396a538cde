"""Real proxies in front, with the lines that docs/operations.md tells an operator to write."""

import contextlib
import re
import shutil
import subprocess
import time

import pytest
from serving import ROOT, Client, free_port

OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
RESERVATIONS = "/api/v1/reservations"
SECONDS = 20  # no proxy takes this long to start


def told(language: str) -> str:
    (block,) = re.findall(rf"^ *```{language}\n(.*?)^ *```$", OPERATIONS, re.DOTALL | re.MULTILINE)
    return block


def nginx(port: int, service: int, folder) -> tuple[list[str], str]:
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        ["nginx", "-p", str(folder), "-c", "{file}"],
        f"""
        daemon off;
        master_process off;
        pid {folder}/nginx.pid;
        error_log {folder}/log;
        events {{}}
        http {{
            access_log off;
            {temporary}
            upstream ticketboss {{ server 127.0.0.1:{service}; }}
            server {{
                listen 127.0.0.1:{port};
                {told("nginx")}
            }}
        }}
        """,
    )


def haproxy(port: int, service: int, folder) -> tuple[list[str], str]:
    return (
        ["haproxy", "-db", "-f", "{file}"],
        f"""
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend all
    bind 127.0.0.1:{port}
    default_backend ticketboss
{told("haproxy")}
    server one 127.0.0.1:{service}
""",
    )


@pytest.fixture(params=[nginx, haproxy], ids=lambda proxy: proxy.__name__)
def behind(request, server, tmp_path):
    """Give a client of the service that stands behind a proxy, under /tickets."""
    program = request.param.__name__
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    port = free_port()
    command, text = request.param(port, server.port, tmp_path)
    file = tmp_path / "configuration"
    file.write_text(text)
    command = [part.format(file=file) for part in command]
    proxy = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with contextlib.closing(Client(port)) as client:
            deadline = time.monotonic() + SECONDS
            while True:
                with contextlib.suppress(ConnectionError):
                    assert client.get("/tickets/livez").status == 200
                    break
                assert proxy.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            yield client
    finally:
        proxy.terminate()
        proxy.wait(SECONDS)


def test_behind_a_path_a_location_leads_to_what_was_made(behind):
    made = behind.post("/tickets" + RESERVATIONS, {"partnerId": "abc-corp", "seats": 3})
    place = made.headers["Location"]
    assert place == f"/tickets{RESERVATIONS}/{made.json['reservationId']}"
    assert behind.get(place).json == made.json
    page = {"Origin": "http://tickets.example:8080", "Host": "tickets.example"}
    assert behind.call("PATCH", place, {"seats": 2}, page).status == 200
    elsewhere = {**page, "Origin": "http://elsewhere.example"}
    assert behind.call("DELETE", place, headers=elsewhere).json["code"] == "cross_site"
    assert behind.delete(place + "/").status == 204
