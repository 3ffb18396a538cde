"""Flask, less what it does at every request for applications that are unlike this one."""

import json
from collections.abc import Callable
from typing import Any

from flask import Flask, Request, Response
from flask.json.provider import JSONProvider
from werkzeug.datastructures import Headers
from werkzeug.http import remove_entity_headers
from werkzeug.routing import MapAdapter


class Answer(Response):
    """A response whose headers are sent as they were written.

    It claims no media type unless it has one: a 204 has none.
    """

    default_mimetype = None

    def get_wsgi_headers(self, environ: dict) -> Headers:
        if self.status_code in (204, 304):
            remove_entity_headers(self.headers)
        return self.headers


class Json(JSONProvider):
    """JSON as it is written here: names in their order, no blanks, one encoder for all."""

    _encode = staticmethod(json.JSONEncoder(separators=(",", ":")).encode)

    def dumps(self, obj: Any, **_: Any) -> str:
        return self._encode(obj)

    def loads(self, s: str | bytes, **_: Any) -> Any:
        return json.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Answer:
        text = self._encode(self._prepare_response_obj(args, kwargs))
        return Answer(text + "\n", mimetype="application/json")


class Application(Flask):
    json_provider_class = Json
    response_class = Answer

    def ensure_sync(self, func: Callable) -> Callable:
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what finds the route of a request by its path and its method alone."""
        if request is None:
            return None
        environ = request.environ
        return MapAdapter(
            self.url_map,
            server_name="",
            script_name=request.root_path,
            subdomain="",
            url_scheme=environ["wsgi.url_scheme"],
            path_info=request.path,
            default_method=environ["REQUEST_METHOD"],
        )
