"""How gunicorn serves TicketBoss: ``gunicorn -c python:ticketboss.gunicorn_conf``."""

import signal
import sys

from ticketboss import limits, logs, startup

_config = startup.load_config()

wsgi_app = "ticketboss:create_app()"
bind = (
    f"[{_config.host}]:{_config.port}"
    if ":" in _config.host
    else (f"{_config.host}:{_config.port}")
)

# Threads wait for the database side by side; processes use the cores.
worker_class = "ticketboss.worker.Worker"
workers = _config.workers
threads = _config.threads
worker_connections = 1000

# A reverse proxy keeps its connections for longer than most clients do.
keepalive = 75
# A worker that does nothing at all for this long is replaced.
timeout = 30
# No answer takes longer than the request deadline; the rest is for slow clients.
graceful_timeout = int(limits.REQUEST_DEADLINE) + 5

# Nobody sends this service long addresses or many headers.
limit_request_line = 4094
limit_request_fields = 50
limit_request_field_size = 4094

logger_class = "ticketboss.worker.Logger"
logs.configure(_config.log_format)
control_socket_disable = True


def on_starting(arbiter):
    """Prepare the database before any worker starts, so that a failure is told once."""
    try:
        startup.prepare(_config)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def when_ready(arbiter):
    """Say what somebody at a terminal needs, and make Ctrl-C as gentle as SIGTERM."""
    signal.signal(signal.SIGINT, lambda *_: arbiter.signal(signal.SIGTERM, None))
    if sys.stdout.isatty() or _config.database_url is None:
        print(_welcome(), flush=True)


def post_worker_init(worker):
    """Leave Ctrl-C to the arbiter, which tells the workers to finish first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _welcome() -> str:
    host = "127.0.0.1" if _config.host in ("0.0.0.0", "::") else _config.host
    url = f"http://[{host}]:{_config.port}" if ":" in host else f"http://{host}:{_config.port}"
    data = "in the database of DATABASE_URL" if _config.database_url else f"in {_config.data}"
    return (
        f"TicketBoss listens on {url}, its data is {data}. Stop it with Ctrl-C. Try:\n"
        f"  curl {url}/api/v1/reservations\n"
        f"  curl {url}/api/v1/reservations -H 'Content-Type: application/json'"
        """ -d '{"partnerId": "abc-corp", "seats": 3}'"""
    )
