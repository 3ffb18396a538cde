"""Log lines: one JSON object each in production, readable ones at a terminal.

What a client sends appears only escaped, so no client can forge a line. Whoever
logs leaves a line in memory, and a thread of the process writes it: nobody waits
for a standard output that nobody reads.
"""

import json
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from json.encoder import encode_basestring_ascii

from ticketboss import metrics
from ticketboss.rules import limits

RELEASE = metadata.version("ticketboss")

STDOUT = 1

# What a record has of its own; everything else was passed as `extra`.
_STANDARD = set(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


def configure(log_format: str) -> None:
    """Send all logs to standard output: `json`, `text`, or `auto` (text at a terminal)."""
    if log_format == "auto":
        log_format = "text" if os.isatty(STDOUT) else "json"
    _output.line = text_line if log_format == "text" else json_line
    logging.basicConfig(level=logging.INFO, handlers=[Handler()], force=True)


def say(logger: str, message: str, **facts) -> None:
    """Log a line as `logging` would at level info, for a fraction of what that costs."""
    _output.say(time.time(), "info", logger, message, facts)


def flush() -> None:
    """Return when everything is written, or after LOG_PATIENCE."""
    _output.flush()


class Handler(logging.Handler):
    """What `logging` is told goes the way of all lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            facts = {name: fact for name, fact in vars(record).items() if name not in _STANDARD}
            if record.exc_info:
                facts["exception"] = logging.Formatter().formatException(record.exc_info)
            level = record.levelname.lower()
            _output.say(record.created, level, record.name, record.getMessage(), facts)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:  # at exit, too
        flush()


# --- The form of a line -----------------------------------------------------------

# How the values of most facts are written in JSON; escaped to ASCII, without control characters.
_WRITERS = {str: encode_basestring_ascii, int: int.__repr__, float: float.__repr__}
_write_other = json.JSONEncoder(default=str).encode


def json_line(seconds: float, level: str, logger: str, message: str, facts: dict) -> str:
    """Return one JSON object; facts that are None are left out."""
    told = "".join(
        [
            f', "{name}": {_WRITERS.get(type(fact), _write_other)(fact)}'
            for name, fact in facts.items()
            if fact is not None
        ]
    )
    return (
        f'{{"time": "{_time(seconds)}", "level": "{level}", "logger": "{logger}",'
        f' "message": {encode_basestring_ascii(message)}{told},'
        f' "pid": {os.getpid()}, "release": "{RELEASE}"}}\n'
    )


def text_line(seconds: float, level: str, logger: str, message: str, facts: dict) -> str:
    """Return time, level, message and facts, with control characters escaped."""
    exception = facts.pop("exception", None)
    told = "".join(f" {name}={fact}" for name, fact in facts.items() if fact is not None)
    text = f"{_time(seconds)[11:23]} {level:7} {message}{told} pid={os.getpid()} release={RELEASE}"
    line = text.encode("unicode_escape").decode("ascii")
    return f"{line}\n{exception}\n" if exception else f"{line}\n"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


# --- Writing them -------------------------------------------------------------------


class Output:
    """Standard output, and the lines that are on their way to it.

    A thread rather than a descriptor that does not block: that would be so for
    everybody who shares it, a terminal or the other processes. It starts with the
    first line, in a process that was forked, too.
    """

    line = staticmethod(json_line)

    def __init__(self):
        self._begin()
        # What the parent has not written yet is the parent's.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._bytes = 0
        self._dropped = 0
        self._writing = self._flushing = False
        self._thread: threading.Thread | None = None

    def say(self, seconds: float, level: str, logger: str, message: str, facts: dict) -> None:
        """Leave a line to be written; where there is no room for it, count it."""
        if sys.stdout is None:  # closed from the start: the descriptor may be anybody's
            return
        line = self.line(seconds, level, logger, message, facts)
        with self._changed:
            if self._bytes + len(line) > limits.LOG_BYTES:
                self._dropped += 1
                metrics.LOG_LINES_DROPPED.add()
                return
            self._lines.append(line)
            self._bytes += len(line)
            if len(self._lines) == 1:
                self._changed.notify_all()
            if self._thread is None:
                self._start()

    def flush(self) -> None:
        with self._changed:
            self._flushing = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: not self._lines and not self._writing, timeout=limits.LOG_PATIENCE
            )
            self._flushing = False

    def _start(self) -> None:
        thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
        with suppress(RuntimeError):  # no more threads: perhaps there are for the next line
            thread.start()
            self._thread = thread

    def _write_lines(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                self._writing = True
                # What is said meanwhile goes with it.
                self._changed.wait_for(lambda: self._flushing, timeout=limits.LOG_GATHERING)
                lines, self._lines, self._bytes = self._lines, [], 0
            lost = sum(piece.count(b"\n") for piece in _pieces(lines) if not _write(piece))
            with self._changed:
                self._dropped += lost
                metrics.LOG_LINES_DROPPED.add(by=lost)
                dropped = self._dropped
            if dropped and _write(self._about(dropped)):
                with self._changed:
                    self._dropped -= dropped

    def _about(self, dropped: int) -> bytes:
        message = "log lines were dropped, for nobody took them"
        facts = {"dropped": dropped}
        return self.line(time.time(), "warning", __name__, message, facts).encode()


def _pieces(lines: list[str]) -> Iterator[bytes]:
    """Join lines into pieces that a pipe takes as a whole.

    Several processes write to one, and longer ones would mix (pipe(7)).
    """
    piece = b""
    for text in lines:
        line = text.encode("utf-8", "backslashreplace")
        if piece and len(piece) + len(line) > select.PIPE_BUF:
            yield piece
            piece = b""
        piece += line
    yield piece


def _write(piece: bytes) -> bool:
    """Write to standard output, however long that takes; tell whether it took it."""
    while piece:
        try:
            piece = piece[os.write(STDOUT, piece) :]
        except BlockingIOError:  # somebody who shares it does not want to wait
            select.select([], [STDOUT], [])
        except OSError:  # nobody will read it, or the disk is full
            return False
    return True


_output = Output()
