"""The document at /openapi.json: valid, whole, and true of the service that runs."""

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
from urllib.parse import quote, urlencode

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from serving import ADMIN, ADMIN_KEY, ROOT
from test_documents import Names

from ticketboss.logs import RELEASE
from ticketboss.web.openapi import EXAMPLES
from ticketboss.web.refusals import REFUSALS


@pytest.fixture(scope="module")
def document(application):
    return application.test_client().get("/openapi.json").json


def test_it_is_valid_and_of_the_release_that_runs(document):
    OpenAPIV31SpecValidator(document).validate()
    assert document["info"]["version"] == RELEASE


def test_it_has_every_route(document, application):
    routes = {
        (re.sub(r"<(\w+?)_(\w)(\w*)>", lambda m: f"{{{m[1]}{m[2].upper()}{m[3]}}}", rule.rule), m)
        for rule in application.url_map.iter_rules()
        for m in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert {(path, m.upper()) for path, at in document["paths"].items() for m in at} == routes


def test_every_error_is_one_of_a_call_or_told_of_all(document):
    """What no call can meet, its address being right, is told of at the top."""
    told = set()
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                told |= {(int(status), code) for code in codes(document, response)}
    others = {(r.status, r.code) for r in REFUSALS} - told
    assert others == {(404, "route_not_found"), (405, "method_not_allowed"), (424, "not_made")}
    top = document["info"]["description"]
    assert all(code in top for _, code in others - {(424, "not_made")})
    assert told <= {(r.status, r.code) for r in REFUSALS}


def codes(document, response):
    """Return the codes of the errors that a response may be."""
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    for each in schema.get("oneOf", [schema]):
        known = document["components"]["schemas"].get(each.get("$ref", "").rpartition("/")[2], {})
        if "const" in known.get("properties", {}).get("code", {}):
            yield known["properties"]["code"]["const"]


# --- The examples ---------------------------------------------------------------------

UUID = Names.UUID


def test_the_examples_work_in_their_order_and_give_the_answers_shown(document, server):
    """Whatever the document shows as an example is a part of one of these calls."""
    called = {}
    shown, given = Names(), Names()
    real = {}
    with contextlib.closing(server.client()) as http:
        for example in EXAMPLES:
            method, path = example["call"].split()
            # The ids that are shown, by those that this run has given.
            told = json.loads(
                UUID.sub(lambda id, real=real: real.get(id[0], id[0]), json.dumps(example))
            )
            for name, value in told.get("path", {}).items():
                path = path.replace(f"{{{name}}}", quote(value, safe=""))
            query = f"?{urlencode(told['query'])}" if "query" in told else ""
            headers = {**ADMIN, **told.get("header", {})}
            answer = http.call(method, path + query, told.get("body"), headers)
            assert answer.status == example["status"], (example, answer.body)
            body = answer.json if answer.body else None
            if "answer" in example:
                answered = json.dumps(example["answer"])
                assert given.plain(json.dumps(body)) == shown.plain(answered), example
                real |= zip(UUID.findall(answered), UUID.findall(json.dumps(body)), strict=True)
            called.setdefault(example["call"], set()).add(example["title"])
            if body is not None:
                check(document, example, body)
    assert shown_titles(document) == called


def check(document, example, body):
    """Hold an answer against the schema of its status."""
    method, path = example["call"].split()
    response = document["paths"][path][method.lower()]["responses"][str(example["status"])]
    schema = response["content"]["application/json"]["schema"]
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    registry = Registry().with_resource("urn:document", resource)
    text = json.dumps(schema).replace("#/components", "urn:document#/components")
    OAS31Validator(json.loads(text), registry=registry).validate(body)


def shown_titles(document):
    """Return the titles of all examples in the document, by their calls."""
    found = {}

    def look(part, call):
        if isinstance(part, dict):
            for name in part.get("examples", {}) if isinstance(part.get("examples"), dict) else ():
                found.setdefault(call, set()).add(name)
            for each in part.values():
                look(each, call)
        elif isinstance(part, list):
            for each in part:
                look(each, call)

    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            look(operation, f"{method.upper()} {path}")
    return found


# --- What schemathesis finds ----------------------------------------------------------------


@pytest.mark.parametrize("auth", ["open", "keys"])
def test_schemathesis_finds_nothing_that_is_otherwise_than_it_says(auth, serve, tmp_path):
    server = serve(AUTH=auth)
    address = f"http://127.0.0.1:{server.port}"
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli"]
        + ["--config-file", str(ROOT / "tests" / "schemathesis.toml"), "run"]
        + [f"{address}/openapi.json", "--url", address, "-H", f"Authorization: Bearer {ADMIN_KEY}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- A client made from it ----------------------------------------------------------------


@pytest.fixture(scope="module")
def made(document, tmp_path_factory):
    """Give the package of a client that openapi-python-client made from the document."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_text(json.dumps(document), "utf-8")
    (folder / "settings.yml").write_text("post_hooks: []\npackage_name_override: made\n")
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
        + ["--path", "openapi.json", "--config", "settings.yml", "--output-path", "made"]
        + ["--fail-on-warning"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    compiled = [sys.executable, "-m", "compileall", "-q", "made"]
    assert subprocess.run(compiled, cwd=folder).returncode == 0
    sys.path.insert(0, str(folder))
    yield "made"
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "made"]:
        del sys.modules[name]


def test_a_client_made_from_it_reserves_confirms_cancels_and_pages(made, server):
    def call(name, *arguments, **keywords):
        module = importlib.import_module(f"{made}.api.{name}")
        return module.sync(*arguments, client=client, **keywords)

    models = importlib.import_module(f"{made}.models")
    client = importlib.import_module(made).Client(f"http://127.0.0.1:{server.port}")
    wanted = models.ReserveRequest(partner_id="abc-corp", seats=2, hold_seconds=60)
    held = call("reservations.reservations_reserve_default", body=wanted, idempotency_key="order-1")
    assert (held.status, held.seats) == ("held", 2)
    confirmed = call(
        "reservations.reservations_confirm",
        held.reservation_id,
        body=models.NoMembersRequest(),
    )
    assert confirmed.status == "confirmed"
    others = [
        call("reservations.reservations_reserve", held.event_id, body=wanted) for _ in range(2)
    ]
    pages, after = [], None
    while True:
        keywords = {"after": after} if after else {}
        page = call("events.events_reservations", held.event_id, limit=1, **keywords)
        pages += [each.reservation_id for each in page.items]
        after = page.next_
        if after is None:
            break
    assert pages == [each.reservation_id for each in [held, *others]]
    assert call("reservations.reservations_cancel", held.reservation_id) is None
    gone = call("reservations.reservations_cancel", held.reservation_id)
    assert isinstance(gone, models.AlreadyCancelled)
    refused = call(
        "reservations.reservations_reserve",
        "nothing-here",
        body=wanted,
    )
    assert isinstance(refused, models.EventNotFound)
