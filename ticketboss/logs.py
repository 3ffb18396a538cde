"""Log lines: one JSON object each in production, readable ones at a terminal.

What a client sends appears only escaped, so no client can forge a line.
"""

import json
import logging
import sys
from datetime import datetime, timezone
from importlib import metadata

RELEASE = metadata.version("ticketboss")

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
        log_format = "text" if sys.stdout.isatty() else "json"
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; json escapes every control and non-ASCII character."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message and extras, with control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{name}={value}" for name, value in _extra(record).items())
        text = f"{_time(record)[11:23]} {record.levelname.lower():7} {record.getMessage()} {extra}"
        line = text.rstrip().encode("unicode_escape").decode("ascii")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")


def _extra(record: logging.LogRecord) -> dict:
    return {
        name: value
        for name, value in record.__dict__.items()
        if name not in _STANDARD and value is not None
    }
