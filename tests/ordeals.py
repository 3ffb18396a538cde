"""The checker over a service that is disturbed, in every way that one machine allows.

    python tests/ordeals.py [--seconds 30] [--only WORD]

Each ordeal has a PostgreSQL of its own and real servers on it, and strikes again and again
while `ticketboss check` is at work. Prints a table, and exits with status 1 if any promise
was broken, with a line for each time.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from serving import ADMIN_KEY, ROOT, Server, free_port, new_folder, postgresql, run_sql, wait_for
from test_faults import Cluster
from test_releases import make_next_release

from ticketboss.check.clients import Check
from ticketboss.check.history import Record, save, summary
from ticketboss.check.judge import Verdict, judge
from ticketboss.serving import embedded

# Between two strikes: time for those who were hit to be served again, and others to be hit.
BETWEEN = 2.0
OUTAGE = 2.0
# Room for a cluster, its first logs of 16 MB and a sale.
DISK_MEGABYTES = 320
PGBOUNCER = "/usr/sbin/pgbouncer"


class Missing(Exception):
    """What an ordeal needs is not installed or not allowed; the message is one line."""


class Ground:
    """What an ordeal strikes at: a PostgreSQL, and servers on it."""

    def __init__(self, folder: Path, dsn: str, stack: contextlib.ExitStack):
        self.folder = folder
        self.dsn = dsn
        self.stack = stack
        self.cluster = Cluster(folder, dsn)
        self.servers: list[Server] = []
        self.chance = random.Random(os.urandom(8))

    def serve(self, **settings) -> Server:
        server = Server(settings.pop("dsn", self.dsn), **settings)
        self.servers.append(self.stack.enter_context(server.start()))
        return server

    def module(self, text: str) -> dict[str, str]:
        """Return settings with which a server runs some Python before anything else."""
        folder = new_folder("", self.folder)
        (folder / "sitecustomize.py").write_text(text)
        return {"PYTHONPATH": str(folder)}

    def backends(self) -> list[int]:
        """Return the process ids of the server's connections."""
        mine = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        return [
            pid for (pid,) in run_sql(self.dsn, f"SELECT pid FROM pg_stat_activity WHERE {mine}")
        ]


# An ordeal sets up what it needs, and strikes each time it is asked to go on.
Ordeal = Callable[[Ground], Iterator[None]]


def nothing_is_wrong(ground: Ground) -> Iterator[None]:
    ground.serve()
    while True:
        yield


def a_worker_is_killed(ground: Ground) -> Iterator[None]:
    server = ground.serve(WORKERS="3")
    while True:
        yield
        os.kill(ground.chance.choice(server.worker_pids()), signal.SIGKILL)


def all_workers_are_killed(ground: Ground) -> Iterator[None]:
    server = ground.serve()
    while True:
        yield
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)


def the_master_is_killed(ground: Ground) -> Iterator[None]:
    """Its workers notice, and a start takes the same port as soon as they are gone."""
    server = ground.serve()
    while True:
        yield
        server.stop(signal.SIGKILL)
        assert wait_for(lambda: _starts(server), 30), server.output()


def _starts(server: Server) -> bool:
    with contextlib.suppress(AssertionError):
        server.start()
        return True
    return False


def the_database_is_killed(ground: Ground) -> Iterator[None]:
    ground.serve()
    while True:
        yield
        ground.cluster.kill()
        time.sleep(ground.chance.uniform(0, OUTAGE))
        ground.cluster.start()


def its_backends_are_terminated(ground: Ground) -> Iterator[None]:
    ground.serve()
    while True:
        yield
        for pid in ground.backends():
            if ground.chance.random() < 0.5:
                run_sql(ground.dsn, "SELECT pg_terminate_backend(%s)", [pid])


def its_backends_are_killed(ground: Ground) -> Iterator[None]:
    """PostgreSQL then ends all others, too, and recovers as after a crash."""
    ground.serve()
    while True:
        yield
        with contextlib.suppress(ProcessLookupError):
            os.kill(ground.chance.choice(ground.backends()), signal.SIGKILL)
        assert wait_for(lambda: _accepts(ground.dsn), 30), "PostgreSQL did not recover"


def _accepts(dsn: str) -> bool:
    with contextlib.suppress(Exception):
        return run_sql(dsn, "SELECT 1") == [(1,)]
    return False


def the_database_is_frozen(ground: Ground) -> Iterator[None]:
    ground.serve()
    while True:
        yield
        with ground.cluster.stopped():
            time.sleep(OUTAGE)


def the_disk_is_full(ground: Ground) -> Iterator[None]:
    """For a while there is no room for another byte; PostgreSQL may end over it."""
    ground.serve()
    if not os.path.ismount(ground.folder):
        raise Missing(
            "a full disk needs a small one of its own: run as root, who may mount a tmpfs"
        )
    filler = ground.folder / "filler"
    while True:
        yield
        try:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(2**20))
            time.sleep(OUTAGE)
        finally:
            filler.unlink()
        ground.cluster.start()


def pgbouncer_is_killed(ground: Ground) -> Iterator[None]:
    if not Path(PGBOUNCER).exists():
        raise Missing("pgbouncer is not installed (Debian and Ubuntu: apt install pgbouncer)")
    port = free_port()
    folder = new_folder("ticketboss-pgbouncer-")
    owner = embedded.owner_account()  # it does not run as root, just as PostgreSQL does not
    if owner:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        "[databases]\n"
        f"postgres = host={embedded.Server(ground.folder).socket} user=postgres\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\nserver_login_retry = 1\nmax_client_conn = 200\n"
    )

    def start() -> subprocess.Popen:
        process = subprocess.Popen(
            [PGBOUNCER, "--quiet", settings],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **({"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}),
        )
        assert wait_for(lambda: _accepts(dsn)), "pgbouncer did not start"
        return process

    dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
    process = start()
    try:
        ground.serve(dsn=dsn)
        while True:
            yield
            process.kill()
            process.wait()
            process = start()
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def one_of_two_instances_is_stopped_and_started(ground: Ground) -> Iterator[None]:
    ground.serve()
    other = ground.serve()
    while True:
        yield
        other.stop()
        other.start()


def two_releases_run_side_by_side(ground: Ground) -> Iterator[None]:
    """The second has migrated the schema, and has another function that writes."""
    ground.serve()
    release = new_folder("", ground.folder)
    shutil.copytree(ROOT / "ticketboss", release / "ticketboss")
    shutil.copytree(ROOT / "sql", release / "ticketboss" / "sql")
    make_next_release(release)
    ground.serve(checkout=release)
    functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'write_batch%%'"
    assert run_sql(ground.dsn, functions, {}) == [(2,)]
    while True:
        yield


def the_clock_of_an_instance_is_a_day_slow(ground: Ground) -> Iterator[None]:
    text = (
        "import time\n"
        "now, now_ns = time.time, time.time_ns\n"
        "time.time = lambda: now() - 86400\n"
        "time.time_ns = lambda: now_ns() - 86400 * 10**9\n"
    )
    ground.serve()
    ground.serve(**ground.module(text))
    while True:
        yield


def commits_take_longer(ground: Ground) -> Iterator[None]:
    run_sql(ground.dsn, "ALTER SYSTEM SET commit_delay = 4000")
    run_sql(ground.dsn, "ALTER SYSTEM SET commit_siblings = 0")
    run_sql(ground.dsn, "SELECT pg_reload_conf()")
    ground.serve()
    ground.serve()
    while True:
        yield


def isolation_is_read_committed(ground: Ground) -> Iterator[None]:
    """The version check holds alone."""
    text = "from ticketboss.data import database; database.SERIALIZABLE = database.LIMITS\n"
    for _ in range(2):
        ground.serve(**ground.module(text))
    while True:
        yield


ORDEALS: tuple[Ordeal, ...] = (
    nothing_is_wrong,
    a_worker_is_killed,
    all_workers_are_killed,
    the_master_is_killed,
    the_database_is_killed,
    its_backends_are_terminated,
    its_backends_are_killed,
    the_database_is_frozen,
    the_disk_is_full,
    pgbouncer_is_killed,
    one_of_two_instances_is_stopped_and_started,
    two_releases_run_side_by_side,
    the_clock_of_an_instance_is_a_day_slow,
    commits_take_longer,
    isolation_is_read_committed,
)


class Outcome(NamedTuple):
    name: str
    strikes: int
    records: list[Record]
    verdict: Verdict

    @property
    def row(self) -> str:
        numbers = summary(self.records)
        cells = (
            *(self.name, self.strikes, f"{numbers.operations:,}", f"{numbers.acknowledged:,}"),
            *(f"{numbers.unknown:,}", len(self.verdict.violations)),
            *(f"{numbers.longest_gap:.1f} s", f"{numbers.longest_request:.1f} s"),
        )
        return f"| {' | '.join(map(str, cells))} |"


HEAD = (
    "| ordeal | strikes | operations | acknowledged | unknown | violations | longest gap"
    " | longest request |\n|---|---|---|---|---|---|---|---|"
)


def run(ordeal: Ordeal, seconds: float) -> Outcome:
    """Let an ordeal strike while the checker is at work. Raises Missing."""
    folder = new_folder("ticketboss-ordeal-")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if ordeal is the_disk_is_full:
            _mount(folder, stack)
        ground = Ground(folder, stack.enter_context(postgresql(folder)), stack)
        strikes = ordeal(ground)
        stack.callback(strikes.close)
        next(strikes)
        urls = [f"http://127.0.0.1:{server.port}" for server in ground.servers]
        records, struck = check(urls, seconds, strikes)
    return Outcome(ordeal.__name__.replace("_", " "), struck, records, judge(records))


def check(urls: list[str], seconds: float, strikes: Iterator[None]) -> tuple[list[Record], int]:
    """Check instances, and go on with the strikes meanwhile; return also how many there were."""
    ends = time.monotonic() + seconds
    struck = 0
    with asking(urls, seconds) as (records, thread):
        while time.monotonic() + BETWEEN + OUTAGE < ends and thread.is_alive():
            time.sleep(BETWEEN)
            next(strikes)
            struck += 1
    return records, struck


@contextlib.contextmanager
def asking(urls: list[str], seconds: float) -> Iterator[tuple[list[Record], threading.Thread]]:
    """Check instances while the block runs; its records are whole when the block has ended."""
    check = Check(urls, ADMIN_KEY, seconds)
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            check.run()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield check.records, thread
    finally:
        thread.join()
    if failures:
        raise failures[0]


def _mount(folder: Path, stack: contextlib.ExitStack) -> None:
    """Give a folder a small disk of its own, where that is allowed."""
    options = f"size={DISK_MEGABYTES}m,mode=0755"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "ticketboss", folder], capture_output=True
    )
    if done.returncode == 0:
        stack.callback(subprocess.run, ["umount", "--lazy", folder], check=True)


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30, help="for each ordeal")
    parser.add_argument("--only", default="", help="those with this word in their name")
    parser.add_argument("--save", type=Path, help="a folder for the histories")
    arguments = parser.parse_args()
    if arguments.save:
        arguments.save.mkdir(parents=True, exist_ok=True)
    print(HEAD, flush=True)
    broken = []
    for ordeal in ORDEALS:
        if arguments.only not in ordeal.__name__.replace("_", " "):
            continue
        try:
            outcome = run(ordeal, arguments.seconds)
        except Missing as reason:
            print(f"left out: {reason}", file=sys.stderr)
            continue
        print(outcome.row, flush=True)
        if arguments.save:
            save(outcome.records, arguments.save / f"{ordeal.__name__}.jsonl")
        broken += [f"{outcome.name}: {each}" for each in outcome.verdict.violations]
    for each in broken:
        print(each, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
