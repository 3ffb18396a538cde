"""TicketBoss sells the seats of events to partner companies, each seat at most once."""

from flask import Flask

from ticketboss import cli, logs
from ticketboss.config import Config
from ticketboss.data.database import Database
from ticketboss.data.keys import Keys
from ticketboss.data.store import Store
from ticketboss.rules.ids import ReservationIds
from ticketboss.selling.batch import Batches
from ticketboss.selling.line import Line
from ticketboss.serving import startup
from ticketboss.web import (
    allotments,
    batches,
    events,
    health,
    keys,
    openapi,
    pages,
    reservations,
    responses,
    scrape,
    screening,
)
from ticketboss.web.access import Access
from ticketboss.web.application import Application


def create_app(config: Config | None = None) -> Flask:
    """Return the application, on a database that is migrated and seeded.

    The configuration comes from the environment unless it is given. Exits with
    one line and status 1 if the service cannot start.
    """
    config, dsn = startup.prepare(config)
    app = Application(__name__, static_folder=None)
    # An address is right or wrong, never redirected; a slash at its end says nothing.
    app.url_map.merge_slashes = app.url_map.strict_slashes = False
    logs.configure(config.log_format)

    database = Database(dsn, config.pool_size)
    store, known_keys = Store(database), Keys(database)
    access = Access(config, known_keys)
    app.extensions["ticketboss"] = {
        "access": access,
        "config": config,
        "ids": ReservationIds(),
        "keys": known_keys,
        "store": store,
        "write_path": Line(Batches(store)),
    }

    responses.register(app, config.trusted_proxies)
    screening.register(app)
    access.register(app, by_keys=config.auth == "keys")
    app.register_blueprint(health.blueprint)
    app.register_blueprint(reservations.blueprint)
    app.register_blueprint(events.blueprint)
    app.register_blueprint(batches.blueprint)
    app.register_blueprint(allotments.blueprint)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(keys.blueprint)
    app.register_blueprint(openapi.blueprint)
    scrape.register(app)  # last: it counts what comes to the routes
    cli.register(app)
    return app
