"""HTTP as bytes: requests out of what has arrived, answers in one piece.

What a request means decides gunicorn's parser alone. It is fed with the bytes
that are there and told to stop where they end, so nothing here ever waits.
"""

import json
import secrets
import sys
import time
from http import HTTPStatus
from io import BytesIO
from types import SimpleNamespace

from gunicorn import SERVER, SERVER_SOFTWARE, util
from gunicorn.config import Config as GunicornConfig
from gunicorn.http import Request
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    ExpectationFailed,
    InvalidHeader,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)

from ticketboss.rules import limits

CRLF = b"\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# How much gunicorn's reader of chunks is given at a time: it copies what it has
# once for every chunk in it.
PIECE = 4096

_STATUSES = {
    LimitRequestLine: 414,
    ExpectationFailed: 417,
    LimitRequestHeaders: 431,
    UnsupportedTransferCoding: 501,
}
_PHRASES = {status.value: status.phrase for status in HTTPStatus} | {
    414: "URI Too Long",  # RFC 9110; http.HTTPStatus learnt its new name in Python 3.13
}
_CODES = {400: "invalid_request", 500: "internal_error"}
_SENTENCES = {
    400: "The request is not valid HTTP",
    408: "The request did not arrive in time",
    414: "The address is too long",
    417: "This expectation cannot be met",
    431: "The headers are too many or too long",
    500: "Something went wrong on our side",
    501: "This transfer coding is not supported",
}


class Incomplete(Exception):  # noqa: N818 (no error: the rest is on its way)
    """More bytes are needed than have arrived."""


class Arrived:
    """What has arrived and is not used yet; takes the place of gunicorn's Unreader."""

    def __init__(self):
        self.data = b""

    def read(self, size: int = PIECE, read_ahead: int | None = None) -> bytes:
        """Take up to `size` bytes; raise Incomplete if there are none."""
        if not self.data:
            raise Incomplete
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    def unread(self, data: bytes | bytearray) -> None:
        self.data = bytes(data) + self.data


class Incoming:
    """Takes whole requests out of the bytes of one connection, one after the other."""

    def __init__(self, settings: SimpleNamespace, peer: tuple):
        self.arrived = Arrived()
        self._settings = settings
        self._peer = peer
        # The request whose head has arrived and whose body has not; the chunks that have.
        self._request: Request | None = None
        self._chunks = bytearray()
        self._wants_go_ahead = False

    @property
    def begun(self) -> bool:
        """Whether a part of a request is there."""
        return self._request is not None or bool(self.arrived.data)

    @property
    def in_body(self) -> bool:
        """Whether a head has arrived whose body has not."""
        return self._request is not None

    def wants_go_ahead(self) -> bool:
        """Tell, once, whether the client waits for a 100 before it sends its body."""
        wants, self._wants_go_ahead = self._wants_go_ahead, False
        return wants

    def take(self) -> tuple[Request, bytes] | None:
        """Return the next request and its body, or None if they are not there as a whole.

        Of a body that is too large only as much comes as shows that, and the
        request says that it must be the last one. Raises ParseException.
        """
        start = self.arrived.data
        try:
            if self._request is None:
                self._request = self._read_head()
            body = self._read_body(self._request)
        except Incomplete:
            if self._request is None:
                self.arrived.data = start
                if len(start) > limits.HEAD_BYTES:
                    raise LimitRequestHeaders("too many bytes") from None
            return None
        request, self._request = self._request, None
        return request, body

    def _read_head(self) -> Request:
        request = Request(self._settings, self.arrived, self._peer)
        self._chunks = bytearray()
        self._wants_go_ahead = False
        hosts = 0
        for name, value in request.headers:
            if name == "HOST":
                hosts += 1
            elif name == "EXPECT":  # the parser takes no other than this one
                self._wants_go_ahead = request.version > (1, 0)
            elif name == "TRANSFER-ENCODING" and value.lower() != "chunked":
                raise UnsupportedTransferCoding(name)
        if hosts != 1 and (hosts or request.version > (1, 0)):  # RFC 9112, section 3.2
            raise InvalidHeader("HOST")
        return request

    def _read_body(self, request: Request) -> bytes:
        most = limits.body_bytes(request.path) + 1  # so that the application sees what is larger
        reader = request.body.reader
        if isinstance(reader, ChunkedReader):
            size = self._read_chunks(reader, most)
            # From here on it is as if the body had come in one piece, with its size before it.
            others = [header for header in request.headers if header[0] != "TRANSFER-ENCODING"]
            request.headers = [*others, ("CONTENT-LENGTH", str(size))]
            self.arrived.unread(self._chunks)
        else:
            size = reader.length
        if size > most:
            request.force_close()
            return b""
        if len(self.arrived.data) < size:
            raise Incomplete
        return self.arrived.read(size) if size else b""

    def _read_chunks(self, reader: ChunkedReader, most: int) -> int:
        """Return the size of the body, or what it is at least if that is too much.

        A chunk that is not there as a whole is left; so each is looked at once, and
        the line of its size again only while its bytes are on their way.
        """
        arrived = self.arrived
        while True:
            start = arrived.data
            try:
                size, rest = reader.parse_chunk_size(arrived)
                if not size or len(self._chunks) + size > most:
                    return len(self._chunks) + size
                arrived.unread(rest)
                if len(arrived.data) < size + len(CRLF):
                    raise Incomplete
            except Incomplete:
                arrived.data = start
                raise
            chunk = arrived.read(size + len(CRLF))
            if not chunk.endswith(CRLF):
                raise ChunkMissingTerminator(b"")
            self._chunks += chunk[:size]


def settings_of(cfg: GunicornConfig) -> SimpleNamespace:
    """Return gunicorn's settings as its parser asks for them, only faster."""
    values = {name: setting.get() for name, setting in cfg.settings.items()}
    return SimpleNamespace(
        **values,
        is_ssl=cfg.is_ssl,
        forwarded_allow_networks=cfg.forwarded_allow_networks,
        proxy_allow_networks=cfg.proxy_allow_networks,
    )


def base_environment(server: tuple, peer: tuple, several: bool) -> dict:
    """Return what the WSGI environments of one connection have in common (PEP 3333)."""
    return {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.input_terminated": True,
        "wsgi.multithread": True,
        "wsgi.multiprocess": several,
        "wsgi.run_once": False,
        "SERVER_SOFTWARE": SERVER_SOFTWARE,
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "REMOTE_ADDR": peer[0],
        "REMOTE_PORT": str(peer[1]),
        "SCRIPT_NAME": "",
    }


def environment(base: dict, request: Request, body: bytes) -> dict:
    """Return the WSGI environment of a request."""
    environ = {
        **base,
        "REQUEST_METHOD": request.method,
        "PATH_INFO": util.unquote_to_wsgi_str(request.path),
        "QUERY_STRING": request.query,
        "RAW_URI": request.uri,
        "SERVER_PROTOCOL": "HTTP/{}.{}".format(*request.version),
        "wsgi.input": BytesIO(body),
        "ticketboss.headers": request.headers,  # as they came: WSGI joins those of one name
    }
    for name, value in request.headers:
        key = name.replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


def run(app, environ: dict, last: bool) -> bytes:
    """Return the answer of a WSGI application; `last` says that no other will follow it."""
    started: list = []
    parts: list[bytes] = []

    def start_response(status: str, headers: list, exc_info=None):
        started[:] = status, headers
        return parts.append

    result = app(environ, start_response)
    try:
        parts.extend(result)
    finally:
        if hasattr(result, "close"):
            result.close()
    status, headers = started
    return render(status, headers, b"".join(parts), environ["REQUEST_METHOD"] == "HEAD", last)


def render(status: str, headers: list, body: bytes, headless: bool, last: bool) -> bytes:
    """Return an answer as the bytes that are sent (RFC 9112, section 4)."""
    code = int(status[:3])
    bodiless = code in (204, 304)
    lines = [
        f"HTTP/1.1 {status}",
        f"Server: {SERVER}",
        f"Date: {_date()}",
        "Connection: close" if last else "Connection: keep-alive",
        *(f"{name}: {value}" for name, value in headers),
    ]
    if not bodiless and not any(name.lower() == "content-length" for name, _ in headers):
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError("a header of the answer has more than one line")
    answer = f"{head}\r\n\r\n".encode("latin-1")
    return answer if bodiless or headless else answer + body


_dated = 0, ""


def _date() -> str:
    """Return the value of a Date header, made once a second."""
    global _dated
    second, text = _dated
    if second != (now := int(time.time())):
        text = util.http_date(now)
        _dated = now, text
    return text


def refusal(status: int) -> tuple[bytes, str]:
    """Return the answer to a request that never reached the application, and its id."""
    request_id = secrets.token_hex(16)
    phrase = _PHRASES[status]
    body = {
        "error": _SENTENCES[status],
        "code": _CODES.get(status, phrase.lower().replace(" ", "_")),
        "requestId": request_id,
    }
    headers = [("Content-Type", "application/json"), ("X-Request-Id", request_id)]
    text = json.dumps(body).encode()
    return render(f"{status} {phrase}", headers, text, headless=False, last=True), request_id


def status_of(fault: ParseException) -> int:
    """Return the status that answers what is no request (RFC 9110, section 15)."""
    return _STATUSES.get(type(fault), 400)
