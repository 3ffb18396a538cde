"""Servers that stop, and that are replaced while everybody sells: nobody is lost."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from partners import EVENT, Partners
from serving import Server, free_port, settled_workers, wait_for

from ticketboss.rules import limits

GUNICORN = [sys.executable, "-m", "gunicorn"]
SCRIPT = [str(Path(sys.executable).with_name("gunicorn"))]
OURS = ["-c", "python:ticketboss.serving.gunicorn_conf"]


@pytest.fixture(autouse=True)
def _on_sale(_empty, store):
    store.create_event(EVENT, "Long sale", 1_000_000)


@pytest.fixture
def sell(dsn):
    """Give a function that lets partners sell through a server."""
    return lambda server, **options: Partners(dsn, server.client, **options)


@pytest.fixture
def start(serving_dsn, tmp_path):
    """Give a function that starts another command in a folder of its own."""
    with contextlib.ExitStack() as stack:

        def start(*command, **options) -> Server:
            environment = options.pop("environment", {})
            server = Server(serving_dsn, checkout=tmp_path, **environment)
            server.process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=server.environment,
                **{"stdin": subprocess.DEVNULL, "start_new_session": True, **options},
                stdout=server.log,
                stderr=subprocess.STDOUT,
            )
            stack.callback(server.__exit__)
            return server

        yield start


def children(pid: int) -> set[int]:
    with contextlib.suppress(OSError):
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return set()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_whoever_connects_while_it_stops_is_refused_or_answered(serving_dsn, sell):
    port = free_port()
    with sell(Server(serving_dsn, PORT=str(port)), refused_is_lost=False) as partners:
        for _ in range(3):
            with Server(serving_dsn, PORT=str(port)) as server:
                partners.go_on()
                assert server.stop() == 0, server.output()


def test_whom_the_system_has_let_in_is_answered_and_then_it_lets_in_nobody(serve):
    server = serve()
    workers = server.worker_pids()
    clients: list[socket.socket] = []

    def is_let_in() -> bool:
        client = socket.socket()
        client.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            client.connect(("127.0.0.1", server.port))
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            clients.append(client)
            return True
        client.close()
        return False

    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert is_let_in()
        server.process.send_signal(signal.SIGTERM)
        assert wait_for(lambda: not is_let_in()), "one who is late would be cut off"
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    for client in clients:
        with client:
            client.settimeout(30)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.process.wait(timeout=30) == 0
    with pytest.raises(ConnectionRefusedError):
        is_let_in()


def test_a_hangup_replaces_the_workers_and_loses_nothing(serve, sell):
    server = serve()
    with sell(server) as partners:
        for _ in range(3):
            before = set(server.worker_pids())
            partners.go_on()
            server.process.send_signal(signal.SIGHUP)
            assert wait_for(lambda before=before: replaced(server, before), 60), server.output()
        partners.go_on()


def replaced(server: Server, before: set[int]) -> bool:
    now = set(server.worker_pids())
    return not now & before and len(now) == len(before)


@pytest.mark.parametrize("command", [GUNICORN, SCRIPT], ids=["module", "script"])
def test_a_server_that_starts_itself_anew_loses_nothing(start, sell, command):
    server = start(*command, *OURS)
    server.wait_until_it_answers()
    master = server.process.pid
    try:
        with sell(server) as partners:
            for round_ in (1, 2):
                partners.go_on()
                master = start_anew(server, master)
                promoted = [round_, "Master has been promoted."]
                assert wait_for(lambda told=promoted: server.output().count(told[1]) == told[0])
            partners.go_on()
    finally:
        os.kill(master, signal.SIGTERM)
        assert wait_for(lambda: not runs(master), 60), server.output()


def start_anew(server: Server, old: int) -> int:
    """Let a master start another beside itself, stop it, and return the other."""
    workers = children(old)
    os.kill(old, signal.SIGUSR2)
    assert wait_for(lambda: children(old) - workers, 60), server.output()
    (new,) = children(old) - workers
    assert wait_for(lambda: len(children(new)) == len(workers), 60), server.output()
    os.kill(old, signal.SIGTERM)
    assert wait_for(lambda: not runs(old), 60), server.output()
    return new


def test_a_socket_that_is_handed_over_keeps_who_comes_between_two_servers(start, sell):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # As systemd does it: descriptor 3, and the id of the process that is meant.
        hand_over = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0 </dev/null'
        command = ["sh", "-c", hand_over, "sh", *GUNICORN, *OURS]
        environment = {"PORT": str(listener.getsockname()[1])}
        server = start(*command, environment=environment, stdin=listener)
        server.wait_until_it_answers()
        with sell(server) as partners:
            for _ in range(3):
                partners.go_on()
                assert server.stop() == 0
                server = start(*command, environment=environment, stdin=listener)
            partners.go_on()


def test_a_worker_that_is_told_to_stop_before_it_can_hear_stops_all_the_same(start, tmp_path):
    (tmp_path / "slow_conf.py").write_text(
        "from ticketboss.serving.gunicorn_conf import *\n"
        "import time\n"
        "def post_fork(arbiter, worker):\n"
        "    time.sleep(1)\n"
    )
    server = start(*GUNICORN, "-c", "slow_conf.py")
    assert wait_for(lambda: children(server.process.pid)), server.output()
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.wait(timeout=limits.REQUEST_PATIENCE) == 0, server.output()


# --- Settings ---------------------------------------------------------------------


def fails(server: Server) -> int:
    return server.output().count("cannot start")


def answers(server: Server) -> bool:
    with contextlib.closing(server.client()) as http:
        return http.get("/api/v1/health").status == 200


def test_a_hangup_with_a_wrong_setting_leaves_the_workers_that_run(start, tmp_path):
    server = start(*GUNICORN, *OURS)
    before = set(settled_workers(server, 2))
    for wrong, line in (
        ("POOL_SIZE=1", "POOL_SIZE takes a whole number from 2 to 64, not '1'"),
        ("ADMIN_KEY_FILE=key", "ADMIN_KEY and ADMIN_KEY_FILE are both set; one of them has to go"),
    ):
        (tmp_path / ".env").write_text(wrong)
        server.process.send_signal(signal.SIGHUP)
        line = f"a new worker cannot start, those that run go on: {line}"
        assert wait_for(lambda line=line: line in server.output()), server.output()
        assert set(server.worker_pids()) == before
        assert answers(server)
    (tmp_path / ".env").write_text("POOL_SIZE=3")
    server.process.send_signal(signal.SIGHUP)
    assert wait_for(lambda: replaced(server, before)), server.output()
    assert fails(server) == 2


def test_a_hangup_does_not_let_in_whoever_comes_without_a_word(start, tmp_path):
    settings = tmp_path / ".env"
    settings.write_text("AUTH=keys")
    server = start(*GUNICORN, *OURS, environment={"HOST": "0.0.0.0"})
    before = settled_workers(server, 2)
    settings.unlink()
    server.process.send_signal(signal.SIGHUP)
    line = "those that run go on: 0.0.0.0 is not the loopback, so AUTH must be said"
    assert wait_for(lambda: line in server.output()), server.output()
    assert server.worker_pids() == before


def test_secrets_are_read_again_at_a_hangup(start, tmp_path):
    key = tmp_path / "key"
    key.write_text("the-first-of-two-keys\n")
    server = start(*GUNICORN, *OURS, environment={"ADMIN_KEY": "", "ADMIN_KEY_FILE": str(key)})
    server.wait_until_it_answers()

    def status(secret: str) -> int:
        event = {"eventId": secret, "name": "Made with a key", "totalSeats": 1}
        with contextlib.closing(server.client()) as http:
            return http.post("/api/v1/events", event, authorization=f"Bearer {secret}").status

    assert status("the-first-of-two-keys") == 201
    assert status("the-second-of-two-keys") == 401
    before = set(server.worker_pids())
    key.write_text("the-second-of-two-keys\n")
    server.process.send_signal(signal.SIGHUP)
    assert wait_for(lambda: replaced(server, before)), server.output()
    assert status("the-first-of-two-keys") == 401
    assert status("the-second-of-two-keys") == 201


def test_workers_that_cannot_start_end_the_server_with_the_reason(start, tmp_path):
    (tmp_path / "broken.py").write_text('raise SystemExit("ticketboss: there is no room")')
    server = start(*GUNICORN, *OURS, "broken:app")
    assert server.process.wait(timeout=30) == 1
    assert "no worker can start: there is no room" in server.output()
    assert "Traceback" not in server.output()


def test_a_worker_that_cannot_be_replaced_is_tried_again_in_time(start, tmp_path):
    code = tmp_path / "application.py"
    code.write_text("from ticketboss import create_app\napp = create_app()\n")
    server = start(*GUNICORN, *OURS, "application:app")
    before = settled_workers(server, 2)
    code.write_text("nonsense")
    os.kill(before[0], signal.SIGKILL)
    line = "those that run go on: NameError: name 'nonsense' is not defined"
    assert wait_for(lambda: line in server.output()), server.output()
    assert server.worker_pids() == before[1:]
    assert answers(server)
    code.write_text("from ticketboss import create_app\n\napp = create_app()\n")
    assert wait_for(lambda: len(server.worker_pids()) == 2, limits.START_PAUSE * 5)
    assert fails(server) == 1


def test_a_setting_that_looks_misspelt_is_named(serve):
    server = serve(TICKETBOS_DATA="/data", ADMINKEY="hunter2")
    assert "TICKETBOS_DATA is none of the settings; is TICKETBOSS_DATA meant?" in server.output()
    assert "hunter2" not in server.output()
