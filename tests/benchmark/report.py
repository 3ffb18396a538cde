"""Say what was measured: a table for the terminal, JSON for machines."""

import statistics
from collections import Counter
from dataclasses import asdict

from tests.benchmark.against import Comparison, Measured
from tests.benchmark.measures import Row, Run

WIDTH = 100
PROFILE = {
    "commits_per_reservation": ("Commits per reservation", "{:.2f}"),
    "conflicts_per_commit": ("Conflicts per commit", "{:.2f}"),
    "locked_per_commit": ("Event's row skipped, locked, per commit", "{:.2f}"),
    "reserve_python_ms": ("Python, processor time per reservation", "{:.3f} ms"),
    "noop_python_ms": ("Python, processor time per no-op", "{:.3f} ms"),
    "reserve_lock_wait_ms": ("Wait for the interpreter lock, reserving", "{:.2f} ms"),
    "noop_lock_wait_ms": ("Wait for the interpreter lock, no-op", "{:.2f} ms"),
    "reserve_postgresql_ms": ("PostgreSQL, processor time per reservation", "{:.3f} ms"),
    "pgbench_one_statement": ("pgbench, one prepared statement", "{:,.0f}/s"),
    "pgbench_a_transaction": ("pgbench, a transaction of three statements", "{:,.0f}/s"),
    "sale_beside": ("Sale that runs beside the summary reads", "{:,.0f}/s"),
    "dead_event_rows": ("Dead versions of events' rows, at the end", "{:,}"),
    "fill_seconds": ("Loading both sizes of table", "{:.0f} s"),
}


def head(facts: dict) -> str:
    """Return two lines that say on what the numbers were measured."""
    machine, settings = facts["machine"], facts["settings"]
    durability = ", ".join(f"{name} {value}" for name, value in settings.items())
    return "\n".join(
        (
            f"TicketBoss on {machine['cores']} cores ({machine['cpu']}),"
            f" {machine['memory_gib']} GiB;"
            f" PostgreSQL {facts['postgresql']}, Python {machine['python']};",
            f"{facts['workers']} workers of {facts['threads']} threads,"
            f" {facts['seconds_per_slice']} s a slice; {durability}.",
        )
    )


def table(run: Run) -> str:
    """Return everything that was measured, in at most WIDTH columns."""
    lines = [f"{'':48} {'measured':>9}  {'target':<9} {'':6}  medians", "-" * WIDTH]
    lines += [_line(row) for row in run.rows]
    reasons = dict.fromkeys(row.detail for row in run.rows if row.value is None)
    lines += [f"Not measured: {reason}" for reason in reasons]
    if run.curve:
        lines += [
            "",
            f"{'Reservations, one event: connections':48} {'accepted/s':>10} {'p50 ms':>9}"
            f" {'p99 ms':>9} {'failed':>7}",
            "-" * WIDTH,
        ]
        lines += [
            f"{point['connections']:>48} {point['rate']:>10,.0f} {point['p50_ms']:>9.1f}"
            f" {point['p99_ms']:>9.1f} {point['failed']:>7}"
            for point in run.curve
        ]
    shown = [(*text, run.profile[name]) for name, text in PROFILE.items() if name in run.profile]
    if shown:
        lines += ["", f"Beside that, with {run.service.ground.config.workers} workers", "-" * WIDTH]
        lines += [f"{text:48} {form.format(value):>12}" for text, form, value in shown]
    if run.failures:
        lines += ["", missed(run.failures)]
    return "\n".join(lines)


def comparison(found: Comparison) -> str:
    """Return what two checkouts reached, in at most WIDTH columns."""
    lines = [
        f"{'':22} {'con-':>4}  {'rate, this / that':>18}  {'cpu':>4}  {'this':>20}  {'that':>20}",
        f"{'':22} {'nec.':>4}  {'median':>6}{'of pairs':>12}  {'':4}"
        + 2 * f"  {'/s':>6} {'p50':>6} {'p99':>6}",
        "-" * WIDTH,
    ]
    for load, pairs in found.pairs.items():
        rates = [this.rate / that.rate if that.rate else 0.0 for this, that in pairs]
        costs = [this.cost / that.cost if that.cost else 0.0 for this, that in pairs]
        lines.append(
            f"{load.name:22} {load.connections:>4}"
            f"  {statistics.median(rates):>5.2f} {min(rates):>5.2f} to {max(rates):4.2f}"
            f"  {statistics.median(costs):>4.2f}"
            + "".join(f"  {_side(part)}" for part in zip(*pairs, strict=True))
        )
    median, most = statistics.median(found.at_rest), max(found.at_rest)
    lines += [
        "",
        "The one that was not measured, with its database, took"
        f" {median:.1%} of a processor (median; at most {most:.1%}).",
        f"Everybody else on this machine took {found.others:.0%} of it: the less, the better.",
    ]
    for run in (found.this, found.that):
        told = missed(run.failures) if run.failures else "no request refused or failed"
        lines.append(f"{run.service.name}: {told}")
    return "\n".join(lines)


def document(run: Run, facts: dict) -> dict:
    """Return the same for machines."""
    return {
        **facts,
        "rows": [{**asdict(row), "ok": row.ok} for row in run.rows],
        "connections": run.curve,
        "profile": run.profile,
        "requests": run.requests,
        "failed": run.failed,
        "failures": dict(run.failures),
    }


def _side(measured: list[Measured]) -> str:
    rate, p50, p99 = (
        statistics.median(getattr(part.slice, name) for part in measured)
        for name in ("rate", "p50", "p99")
    )
    return f"{rate:>6,.0f} {p50:>6.{_digits(p50)}f} {p99:>6.{_digits(p99)}f}"


def _digits(milliseconds: float) -> int:
    return 2 if milliseconds < 10 else 1


def missed(failures: Counter) -> str:
    """Return a line about requests that did not do what they were sent for."""
    told = ", ".join(f"{n} x {what}" for what, n in failures.most_common(5))
    return f"MISSED: {failures.total():,} requests refused or failed ({told})"


def _line(row: Row) -> str:
    target = f"{'<=' if row.at_most else '>='} {_number(row.target)}"
    if row.value is None:
        return f"{row.name:48} {'-':>9}  {target:<9} {'-':6}"
    measured = _number(row.value)
    verdict = "ok" if row.ok else "MISSED"
    return f"{row.name:48} {measured:>9}  {target:<9} {verdict:6}  {row.detail}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
