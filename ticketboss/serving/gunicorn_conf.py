"""How gunicorn serves TicketBoss: ``gunicorn -c python:ticketboss.serving.gunicorn_conf``."""

import errno
import logging
import os
import signal
import socket
import sys
import time

from ticketboss import config as configuration
from ticketboss import logs
from ticketboss.rules import limits
from ticketboss.serving import embedded, exposure, startup
from ticketboss.serving.master import Master

log = logging.getLogger(__name__)

_config = startup.load_config()

wsgi_app = "ticketboss:create_app()"
bind = (
    f"[{_config.host}]:{_config.port}"
    if ":" in _config.host
    else (f"{_config.host}:{_config.port}")
)

# Threads wait for the database side by side; processes use the cores.
worker_class = "ticketboss.serving.worker.Worker"
workers = _config.workers
threads = _config.threads
worker_connections = _config.connections
keepalive = _config.keepalive
# A worker that does nothing at all for this long is replaced.
timeout = 30
# A request that has begun may arrive as a whole, and be answered.
graceful_timeout = int(limits.REQUEST_PATIENCE + limits.REQUEST_DEADLINE)

# Nobody sends this service long addresses or many headers.
limit_request_line = 4094
limit_request_fields = 50
limit_request_field_size = 4094

# Nothing that a request says of itself is taken from its headers, whoever sends them:
# SCRIPT_NAME, which gunicorn believes of its neighbours, would change the address.
forwarded_allow_ips = ""

logger_class = "ticketboss.serving.worker.Logger"
logs.configure(_config.log_format)
exposure.warn_if_open(_config)
control_socket_disable = True


def _own_processors() -> list[int]:
    """Return the processors to give to workers, one each; none if there are not enough."""
    if _config.cpu_affinity == "off" or not hasattr(os, "sched_getaffinity"):
        return []
    processors = sorted(os.sched_getaffinity(0))
    # Services beside each other do not all begin with the first.
    start = os.getpid() % len(processors)
    return processors[start:] + processors[:start] if len(processors) >= workers else []


_processors = _own_processors()

# How long a start waits for its port: a server that was killed leaves it to its
# workers, who close it as soon as they run.
PORT_PATIENCE = 1.0


def on_starting(arbiter):
    """Prepare the database before any worker starts, so that a failure is told once."""
    arbiter.__class__ = Master
    arbiter.take_over()
    for name, meant in configuration.misspelt().items():
        log.warning("%s is none of the settings; is %s meant?", name, meant)
    try:
        # A socket that is handed over, by systemd or by a former self, is in use.
        if not {"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys():
            _check_address()
        startup.prepare(_config)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def pre_fork(arbiter, worker):
    worker.settle(list(arbiter.WORKERS.values()), _processors)


def child_exit(arbiter, worker):
    arbiter.miss(worker)


def when_ready(arbiter):
    """Say what somebody at a terminal needs, and make Ctrl-C as gentle as SIGTERM.

    Not before it is certain that it may serve at the addresses that are bound by now.
    """
    bound = [listener.sock.getsockname() for listener in arbiter.LISTENERS]
    # With --reuse-port each worker binds for itself.
    exposure.check_addresses(_config, bound or arbiter.cfg.address)
    # So is closing the terminal; elsewhere SIGHUP means what it means to gunicorn.
    for number in (signal.SIGINT, signal.SIGHUP) if os.isatty(0) else (signal.SIGINT,):
        signal.signal(number, lambda *_: arbiter.signal(signal.SIGTERM, None))
    if sys.stdout.isatty() or _config.database_url is None:
        logs.flush()  # what is said last is seen
        # Among the log lines of a file or a pipe it would be no JSON.
        print(_welcome(), file=sys.stdout if sys.stdout.isatty() else sys.stderr, flush=True)


def post_worker_init(worker):
    """Leave Ctrl-C to the arbiter, which tells the workers to finish first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check_address() -> None:
    """Exit with one line if nobody can listen there; gunicorn takes ten to say so."""
    deadline = time.monotonic() + PORT_PATIENCE
    while True:
        family = socket.AF_INET6 if ":" in _config.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                return probe.bind((_config.host, _config.port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise SystemExit(
                        f"ticketboss: cannot listen on {_config.host} port {_config.port}:"
                        f" {error.strerror}; HOST and PORT choose another"
                    ) from None
        time.sleep(0.1)


def _welcome() -> str:
    host = "127.0.0.1" if _config.host in ("0.0.0.0", "::") else _config.host
    url = f"http://[{host}]:{_config.port}" if ":" in host else f"http://{host}:{_config.port}"
    place = "the database of DATABASE_URL" if _config.database_url else embedded.place(_config.data)
    return (
        f"TicketBoss listens on {url}, its data is in {place}. Stop it with Ctrl-C.\n"
        f"Watch it sell on {url}/ in a browser, read and try its API on {url}/docs. Or:\n"
        f"  curl {url}/api/v1/reservations\n"
        f"  curl {url}/api/v1/reservations -H 'Content-Type: application/json'"
        """ -d '{"partnerId": "abc-corp", "seats": 3}'"""
    )
