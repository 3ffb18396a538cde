"""Read and check the configuration, once, from the environment and `.env`."""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from ticketboss.data import database
from ticketboss.rules.names import EVENT_ID

Network = IPv4Network | IPv6Network

HOST = re.compile(r"[A-Za-z0-9.:_-]{1,253}\Z")

# Each also as NAME_FILE, the path of a file that holds it.
SECRETS = ("DATABASE_URL", "ADMIN_KEY")


class ConfigurationError(Exception):
    """A variable has a value that the service cannot use; the message is one line."""


@dataclass(frozen=True)
class Config:
    """What the operator decides; everything else is in ticketboss.rules.limits."""

    database_url: str | None = None  # None: the embedded PostgreSQL
    data: Path = Path(".data")
    host: str = "127.0.0.1"
    port: int = 8080
    event_id: str = "node-meetup-2025"
    workers: int = 2
    threads: int = 24
    pool_size: int = 8
    connections: int = 1000
    keepalive: int = 75
    cpu_affinity: str = "auto"
    log_format: str = "auto"
    admin_key: str | None = None
    auto_migrate: str = "on"
    auth: str | None = None  # None: open, on the loopback
    partner_concurrency: int | None = None  # None: half of the threads
    trusted_proxies: tuple[Network, ...] = ()


def load(environment: Mapping[str, str] | None = None) -> Config:
    """Return the configuration that the environment describes.

    Without an argument: `.env` in the working folder, where python-dotenv is
    installed, overridden by the process's environment. An empty value counts
    as not set.

    Raises ConfigurationError, naming the variable and what it takes.
    """
    values = _environment() if environment is None else environment
    default = Config()

    def text(name: str, fallback):
        return values.get(name) or fallback

    def number(name: str, fallback: int, lowest: int, highest: int) -> int:
        value = text(name, str(fallback))
        if not re.fullmatch(r"[0-9]{1,9}", value) or not lowest <= int(value) <= highest:
            raise ConfigurationError(
                f"{name} takes a whole number from {lowest} to {highest}, not {value!r}"
            )
        return int(value)

    def matching(name: str, fallback: str, pattern: re.Pattern, takes: str) -> str:
        value = text(name, fallback)
        if not pattern.match(value):
            raise ConfigurationError(f"{name} takes {takes}, not {value!r}")
        return value

    def networks(name: str) -> tuple[Network, ...]:
        value = text(name, "")
        try:
            return tuple(map(ip_network, value.replace(",", " ").split()))
        except ValueError:
            raise ConfigurationError(
                f"{name} takes IP addresses and networks such as 10.0.0.0/8, with commas"
                f" between them, not {value!r}"
            ) from None

    def secret(name: str) -> str | None:
        file = text(f"{name}_FILE", None)
        if file is None:
            return text(name, None)
        if text(name, None):
            raise ConfigurationError(f"{name} and {name}_FILE are both set; one of them has to go")
        try:
            value = Path(file).read_text("utf-8").removesuffix("\n")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise ConfigurationError(
                f"{name}_FILE takes the path of a file that can be read, not {file!r}: {reason}"
            ) from None
        if not value:
            raise ConfigurationError(f"{name}_FILE takes a file with a value; {file!r} is empty")
        return value

    database_url = secret("DATABASE_URL")
    if database_url is not None and not database.is_dsn(database_url):
        # The value may hold a password: it is not repeated.
        raise ConfigurationError(
            "DATABASE_URL takes a PostgreSQL connection string such as"
            " postgresql://user@host:5432/name; this one cannot be parsed"
        )
    admin_key = secret("ADMIN_KEY")
    if admin_key is not None and not re.fullmatch(r"[!-~]{16,255}", admin_key):
        raise ConfigurationError("ADMIN_KEY takes 16 to 255 printable ASCII characters, no spaces")
    return Config(
        database_url=database_url,
        data=Path(text("TICKETBOSS_DATA", default.data)).expanduser().absolute(),
        host=matching("HOST", default.host, HOST, "an address or a host name"),
        port=number("PORT", default.port, 1, 65535),
        event_id=matching(
            "EVENT_ID",
            default.event_id,
            EVENT_ID,
            "1 to 64 characters of a-z 0-9 . _ -, not . or ..",
        ),
        workers=number("WORKERS", default.workers, 1, 64),
        threads=number("THREADS", default.threads, 4, 256),
        pool_size=number("POOL_SIZE", default.pool_size, 2, 64),
        connections=number("CONNECTIONS", default.connections, 16, 50_000),
        keepalive=number("KEEPALIVE", default.keepalive, 1, 3600),
        cpu_affinity=matching(
            "CPU_AFFINITY", default.cpu_affinity, re.compile(r"(auto|off)\Z"), "auto or off"
        ),
        log_format=matching(
            "LOG_FORMAT",
            default.log_format,
            re.compile(r"(auto|json|text)\Z"),
            "auto, json or text",
        ),
        admin_key=admin_key,
        auto_migrate=matching(
            "AUTO_MIGRATE", default.auto_migrate, re.compile(r"(on|off)\Z"), "on or off"
        ),
        auth=matching("AUTH", "", re.compile(r"(open|keys)?\Z"), "open or keys") or None,
        partner_concurrency=text("PARTNER_CONCURRENCY", None)
        and number("PARTNER_CONCURRENCY", 1, 1, 256),
        trusted_proxies=networks("TRUSTED_PROXIES"),
    )


def misspelt(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the names that look like a mistake, each with the one that may be meant."""
    values = _environment() if environment is None else environment
    ours = [field.name.upper() for field in fields(Config) if field.name != "data"]
    ours += ["TICKETBOSS_DATA", *(f"{name}_FILE" for name in SECRETS)]
    return {
        name: meant
        for name in sorted(values.keys() - set(ours))
        for meant in ours
        if _is_slip(name, meant)
    }


def _is_slip(name: str, meant: str) -> bool:
    """Tell PROT and PORTS from PORT; HOSTNAME, PGPORT and PATH are somebody else's."""
    if name[:1] != meant[:1] or abs(len(name) - len(meant)) > 1:
        return False
    blocks = difflib.SequenceMatcher(None, name, meant).get_matching_blocks()
    return len(name) + len(meant) - 2 * sum(block.size for block in blocks) <= 2


def _environment() -> dict[str, str]:
    try:
        from dotenv import dotenv_values
    except ImportError:  # a production install reads the environment only
        return dict(os.environ)
    found = {name: value or "" for name, value in dotenv_values(".env").items()}
    return {**found, **os.environ}
