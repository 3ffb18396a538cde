"""What is counted, and the numbers of the events on sale, as Prometheus reads it: `/metrics`."""

from http import HTTPStatus

from flask import Blueprint, Flask, Response

from ticketboss import metrics
from ticketboss.data.database import Conflict, Rejected
from ticketboss.logs import RELEASE
from ticketboss.metrics import OTHER, Family, Sample
from ticketboss.rules.errors import TicketBossError
from ticketboss.web.access import require_metrics
from ticketboss.web.current import store

blueprint = Blueprint("scrape", __name__)

# The text format of Prometheus, and its version.
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# What is told of each event: a name, the column, and what it is.
EVENTS = (
    ("event_seats", "total_seats", "Seats of an event on sale"),
    ("event_available_seats", "available_seats", "Seats that nobody has"),
    ("event_held_seats", "held_seats", "Seats on hold; left out where there are very many holds"),
    ("event_allotted_seats", "allotted_seats", "Seats set aside for partners"),
    ("event_version", "version", "Changes of an event so far"),
)


def register(app: Flask) -> None:
    """Show the counts, and count the requests of every route: call it when all are there."""
    app.register_blueprint(blueprint)
    rules = app.url_map.iter_rules()
    routes = {(rule.rule, method) for rule in rules for method in rule.methods or ()}
    for route, method in [*sorted(routes), (OTHER, OTHER)]:
        metrics.REQUEST_SECONDS.know(route, method)
        for status in HTTPStatus:
            metrics.REQUESTS.know(route, method, int(status))
    metrics.REQUESTS.know(OTHER, OTHER, OTHER)


@blueprint.get("/metrics")
def show():
    """Tell how this instance does, whether the database answers or not."""
    require_metrics()
    built = [Sample({"version": RELEASE}, 1)]
    families = [
        Family("ticketboss_build_info", "gauge", "The release that runs", built),
        *_of_the_database(),
        *metrics.families(),
    ]
    return Response("".join(map(_text, families)), content_type=MEDIA_TYPE)


def _of_the_database() -> list[Family]:
    try:
        rows, answers = store.list_selling_events(), True
    except (TicketBossError, Conflict, Rejected):
        rows, answers = [], False
    about = "Whether the database answered this scrape"
    return [
        Family("ticketboss_database_up", "gauge", about, [Sample({}, answers)]),
        *(
            Family(
                f"ticketboss_{name}",
                "gauge",
                about,
                [
                    Sample({"event": row.event_id}, value)
                    for row in rows
                    if (value := getattr(row, column)) is not None
                ],
            )
            for name, column, about in EVENTS
        ),
    ]


def _text(family: Family) -> str:
    """Return a family's lines. No label has a character in it that would have to be escaped."""
    lines = [f"# HELP {family.name} {family.about}\n# TYPE {family.name} {family.kind}\n"]
    for labels, value, suffix in family.samples:
        told = ",".join(f'{name}="{label}"' for name, label in labels.items())
        lines.append(f"{family.name}{suffix}{f'{{{told}}}' if told else ''} {value:.15g}\n")
    return "".join(lines)
