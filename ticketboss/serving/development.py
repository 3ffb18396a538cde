"""Serve while the code changes: ``python -m ticketboss.serving.development``, or ``make dev``."""

import contextlib
import logging
import os
import socket
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path

from werkzeug.serving import WSGIRequestHandler, is_running_from_reloader, run_simple

from ticketboss import create_app
from ticketboss.serving import exposure, startup

log = logging.getLogger("ticketboss.serving.development")

SOURCES = (".py", ".sql", ".html")


class Handler(WSGIRequestHandler):
    """Leaves the logging of requests to the application."""

    def log_request(self, *_):
        pass


def main() -> None:
    """Serve until Ctrl-C or SIGTERM, starting anew whenever a file of ours changes."""
    config = replace(startup.load_config(), log_format="text")
    # werkzeug starts this module a second time to serve. The first one, which only
    # looks on, uses the embedded database, too: so that runs on between two starts.
    app = create_app(config)
    exposure.check_addresses(config, [socket.getaddrinfo(config.host, None)[0][4]])
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    if is_running_from_reloader():
        exposure.warn_if_open(config)
        log.info("listening on http://%s:%s, reloading on every change", config.host, config.port)
    while True:
        before = _files()
        try:
            return run_simple(
                config.host,
                config.port,
                app,
                use_reloader=True,
                reloader_type="stat",
                extra_files=before.keys(),
                threaded=True,
                request_handler=Handler,
            )
        except SystemExit as end:
            # Code that does not run ends the one that serves; wait until it is mended.
            looks_on = not is_running_from_reloader() and "WERKZEUG_SERVER_FD" in os.environ
            if not looks_on or end.code != 1:
                raise
        log.error("waiting for a change")
        while _files() == before:
            time.sleep(0.2)


def _files() -> dict[str, float]:
    """Return the files of the code and of the SQL, each with the time of its last change."""
    folders = (Path(__file__).parent.parent, Path(str(resources.files("ticketboss.sql"))))
    files = [f for folder in folders for f in folder.rglob("*") if f.suffix in SOURCES]
    return {str(file): file.stat().st_mtime for file in files}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
