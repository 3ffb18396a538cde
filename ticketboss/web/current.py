"""What the current application runs on, for blueprints and commands."""

from typing import TYPE_CHECKING, cast

from flask import current_app
from werkzeug.local import LocalProxy

from ticketboss.config import Config
from ticketboss.data.keys import Keys
from ticketboss.data.store import Store
from ticketboss.rules.ids import ReservationIds
from ticketboss.selling.line import Line

if TYPE_CHECKING:
    from ticketboss.web.access import Access

access = cast("Access", LocalProxy(lambda: current_app.extensions["ticketboss"]["access"]))
config = cast(Config, LocalProxy(lambda: current_app.extensions["ticketboss"]["config"]))
ids = cast(ReservationIds, LocalProxy(lambda: current_app.extensions["ticketboss"]["ids"]))
keys = cast(Keys, LocalProxy(lambda: current_app.extensions["ticketboss"]["keys"]))
store = cast(Store, LocalProxy(lambda: current_app.extensions["ticketboss"]["store"]))
write_path = cast(Line, LocalProxy(lambda: current_app.extensions["ticketboss"]["write_path"]))
