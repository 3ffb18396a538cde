"""Run the measurements, print the table, and write it as JSON and as a picture.

    python -m tests.benchmark [--only hot,alone] [--output FOLDER]

From the folder of the repository. BENCH_SECONDS is the length of one slice, of
which a measurement takes several. With DATABASE_URL it runs on that database,
else on an embedded one that is removed afterwards.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import psycopg2

from tests.benchmark import machine, measures, picture, report
from tests.benchmark.ground import Ground, Service, ground
from tests.benchmark.load import CannotMeasure, Pgbench, Wrk
from ticketboss.data.database import Conflict, ConnectionLost, Database, Rejected
from ticketboss.data.verify import replay_ledgers
from ticketboss.rules.errors import TicketBossError

HERE = Path(__file__).parent
DEFAULT_SECONDS = 2


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        names, output = _arguments()
        _run(names, output, _seconds())
    except CannotMeasure as reason:
        raise SystemExit(f"bench: {reason}") from None
    except (TicketBossError, Conflict, ConnectionLost, Rejected, psycopg2.Error) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SystemExit(f"bench: the database failed: {reason}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _interrupt(number: int, _) -> None:
    # Once: what was started is then ended and removed without another interruption.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    print("\nbench: interrupted, stopping", file=sys.stderr, flush=True)
    raise KeyboardInterrupt


def _arguments() -> tuple[list[str], Path | None]:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description="Measure.")
    known = measures.MEASURES | measures.NAMED
    parser.add_argument("--only", help=f"names with commas between them: {', '.join(known)}")
    parser.add_argument(
        "--output",
        type=Path,
        help="the folder for results.json and results.svg; without --only it is the benchmark's",
    )
    arguments = parser.parse_args()
    names = list(measures.MEASURES)
    if arguments.only is not None:
        names = [name.strip() for name in arguments.only.split(",")]
    for name in names:
        if name not in known:
            raise CannotMeasure(
                f"--only takes {', '.join(known)}, with commas between; not {name!r}"
            )
    output = arguments.output
    if output is not None and not output.is_dir():
        raise CannotMeasure(f"--output takes a folder that exists, not {str(output)!r}")
    output = output or (None if arguments.only else HERE)
    if output is not None:
        try:
            tempfile.TemporaryFile(dir=output).close()
        except OSError as error:
            raise CannotMeasure(f"cannot write to {str(output)!r}: {error.strerror}") from None
    return names, output


def _seconds() -> int:
    value = os.environ.get("BENCH_SECONDS") or str(DEFAULT_SECONDS)
    if not re.fullmatch(r"[0-9]{1,2}", value) or not 1 <= int(value) <= 60:
        raise CannotMeasure(f"BENCH_SECONDS takes a whole number from 1 to 60, not {value!r}")
    return int(value)


def _run(names: list[str], output: Path | None, seconds: int) -> None:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - started:4.0f} s  {text}", flush=True)

    wrk = Wrk()
    pgbench = Pgbench() if "pgbench" in names else None
    with ground() as base:
        settings = base.require_durability()
        facts = _facts(base, settings, seconds)
        print(report.head(facts))
        print(
            f"On the database of DATABASE_URL: events {base.prefix}-*, removed afterwards."
            if base.lent
            else "On an embedded database of its own, removed afterwards."
        )
        with Service(base) as service:
            service.create("hot", "warm")
            run = measures.Run(base, service, wrk, pgbench, seconds, say)
            say("warming up")
            measures.warm(run)
            for name, measure in (measures.MEASURES | measures.NAMED).items():
                if name in names:
                    say(measure.__doc__.rstrip("."))
                    measure(run)
        say("replaying the ledger")
        verdict = _verify(base)
    facts["took_seconds"] = round(time.monotonic() - started)
    print(f"\n{report.table(run)}\n\n{verdict} It all took {facts['took_seconds']} s.")
    if output is not None:
        _write(run, facts, output)
    if run.failed:
        raise SystemExit(1)


def _facts(base: Ground, settings: dict, seconds: int) -> dict:
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "postgresql": base.sql("SHOW server_version")[0][0].split()[0],
        "settings": settings,
        "workers": base.config.workers,
        "threads": base.config.threads,
        "seconds_per_slice": seconds,
    }


def _verify(base: Ground) -> str:
    """Replay the ledger of this run's events; return a sentence, or raise CannotMeasure."""
    changes = 0
    with contextlib.closing(Database(base.dsn, size=1)) as database:
        for event_id, version, differences in replay_ledgers(database):
            if event_id.startswith(base.prefix):
                changes += version
                if differences:
                    raise CannotMeasure(f"the ledger of {event_id} disagrees: {differences[0]}")
    return f"The ledger's {changes:,} changes, replayed, give every number."


def _write(run: measures.Run, facts: dict, output: Path) -> None:
    document = output / "results.json"
    document.write_text(json.dumps(report.document(run, facts), indent=2) + "\n")
    print(f"Written: {document}", end="")
    if run.curve:
        size = facts["machine"]
        caption = (
            f"{size['cores']} cores ({size['cpu']}) shared by load generator, service"
            f" and PostgreSQL {facts['postgresql']}; {facts['workers']} worker processes"
        )
        drawing = output / "results.svg"
        drawing.write_text(picture.draw(run.curve, run.profile.get("noop_rate"), caption))
        print(f", {drawing}", end="")
    print()


if __name__ == "__main__":
    main()
