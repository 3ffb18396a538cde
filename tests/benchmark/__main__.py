"""Run the measurements, print the table, and write it as JSON and as a picture.

    python -m tests.benchmark [--only hot,alone] [--output FOLDER]
    python -m tests.benchmark --against PATH [--only noop,reserve]
    python -m tests.benchmark --rivals

From the folder of the repository. BENCH_SECONDS is the length of one slice, of
which a measurement takes several. With DATABASE_URL it runs on that database,
else on an embedded one that is removed afterwards. With --against it compares
this checkout with the one at PATH, with --rivals with other designs.
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
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import psycopg2

from tests.benchmark import against, machine, measures, picture, report
from tests.benchmark.ground import Ground, Service, ground
from tests.benchmark.load import CannotMeasure, Pgbench, Wrk
from tests.benchmark.rivals import comparison
from ticketboss.data.database import Conflict, ConnectionLost, Database, Rejected
from ticketboss.data.verify import replay_ledgers
from ticketboss.rules.errors import TicketBossError

HERE = Path(__file__).parent
DEFAULT_SECONDS = 2


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        arguments = _arguments()
        seconds = _seconds()
        if arguments.rivals:
            _compare_rivals(seconds)
        elif arguments.against is None:
            _run(arguments.only, arguments.output, seconds)
        else:
            _compare(arguments.against, arguments.only, seconds)
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


def _arguments() -> argparse.Namespace:
    """Return the options, with the names of what is to be measured as `only`."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description="Measure.")
    parser.add_argument(
        "--only",
        help=f"names with commas between them: {', '.join(measures.MEASURES | measures.NAMED)};"
        f" with --against: {', '.join(against.LOADS | against.NAMED)}",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="the folder for results.json and results.svg; without --only it is the benchmark's",
    )
    parser.add_argument(
        "--against", type=Path, metavar="PATH", help="compare with the checkout of this folder"
    )
    parser.add_argument(
        "--rivals", action="store_true", help="compare with other designs; this is all it does"
    )
    arguments = parser.parse_args()
    if arguments.rivals:
        if any((arguments.only, arguments.output, arguments.against)):
            raise CannotMeasure("--rivals takes no other option, and only prints")
        return arguments
    usual, named = (
        (measures.MEASURES, measures.NAMED)
        if arguments.against is None
        else (against.LOADS, against.NAMED)
    )
    whole = arguments.only is None
    arguments.only = list(usual) if whole else [name.strip() for name in arguments.only.split(",")]
    for name in arguments.only:
        if name not in usual | named:
            raise CannotMeasure(
                f"--only takes {', '.join(usual | named)}, with commas between; not {name!r}"
            )
    if arguments.against is None:
        arguments.output = _writable(arguments.output or (HERE if whole else None))
    elif arguments.output is not None:
        raise CannotMeasure("--output is for a run without --against, which only prints")
    return arguments


def _writable(output: Path | None) -> Path | None:
    if output is not None:
        if not output.is_dir():
            raise CannotMeasure(f"--output takes a folder that exists, not {str(output)!r}")
        try:
            tempfile.TemporaryFile(dir=output).close()
        except OSError as error:
            raise CannotMeasure(f"cannot write to {str(output)!r}: {error.strerror}") from None
    return output


def _seconds() -> int:
    value = os.environ.get("BENCH_SECONDS") or str(DEFAULT_SECONDS)
    if not re.fullmatch(r"[0-9]{1,2}", value) or not 1 <= int(value) <= 60:
        raise CannotMeasure(f"BENCH_SECONDS takes a whole number from 1 to 60, not {value!r}")
    return int(value)


def _since(started: float) -> Callable[[str], None]:
    """Return a function that says what is going on."""
    return lambda text: print(f"  {time.monotonic() - started:4.0f} s  {text}", flush=True)


def _run(names: list[str], output: Path | None, seconds: int) -> None:
    started = time.monotonic()
    say = _since(started)
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


def _compare(path: Path, names: list[str], seconds: int) -> None:
    started = time.monotonic()
    say = _since(started)
    loads = [
        load
        for name, loads in (against.LOADS | against.NAMED).items()
        if name in names
        for load in loads
    ]
    both = against.checkouts(path)
    with against.comparison(both, seconds, say) as found:
        found.that.ground.require_durability()
        base = found.this.ground
        print(report.head(_facts(base, base.require_durability(), seconds)))
        print(against.describe(*both))
        found.measure(loads, say)
        say("replaying the ledgers")
        for run in (found.this, found.that):
            against.verify(run.service)
    took = round(time.monotonic() - started)
    print(f"\n{report.comparison(found)}\n\nBoth ledgers agree. It all took {took} s.")
    if found.this.failed or found.that.failed:
        raise SystemExit(1)


def _compare_rivals(seconds: int) -> None:
    started = time.monotonic()
    with ground() as base:
        print(report.head(_facts(base, base.require_durability(), seconds)))
        with comparison.rivalry(base) as found:
            run = comparison.measure(found, Wrk(), seconds, _since(started))
        verdict = _verify(base)
    took = round(time.monotonic() - started)
    print(f"\n{comparison.table(found)}\n\n{verdict} It all took {took} s.")
    if run.failed:
        raise SystemExit(report.missed(run.failures))


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
        for replay in replay_ledgers(database):
            if replay.event_id.startswith(base.prefix):
                changes += replay.version
                if found := replay.differences:
                    raise CannotMeasure(f"the ledger of {replay.event_id} disagrees: {found[0]}")
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
