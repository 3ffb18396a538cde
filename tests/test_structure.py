"""The house: who may import whom, and who alone knows what."""

import ast
import re
import sys
from pathlib import Path

import pytest

import ticketboss

PACKAGE = Path(ticketboss.__file__).parent

# Bottom first. A storey may use itself and those below it.
STOREYS = (
    {"rules", "check", "waiting"},
    {"data", "logs", "metrics"},
    {"selling"},
    {"config"},
    {"web", "serving"},
    {"", "cli"},  # "" is the factory
)
# It starts the factory that everything else is started by.
ARROWS_UP = {("serving/development.py", "")}


def rooms() -> dict[str, Path]:
    return {str(file.relative_to(PACKAGE)): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(file: Path) -> set[str]:
    """Return the dotted names of everything that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports by a relative name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(dotted: str) -> str:
    """Return the room of one of our own modules: `ticketboss.web.bodies` is in web."""
    first = dotted.split(".")[1]
    return first if (PACKAGE / first).exists() or (PACKAGE / f"{first}.py").exists() else ""


def storey(name: str) -> int:
    (number,) = (number for number, names in enumerate(STOREYS) if name in names)
    return number


@pytest.mark.parametrize("name", rooms())
def test_a_storey_uses_only_itself_and_those_below_it(name):
    own = "" if name == "__init__.py" else name.removesuffix(".py").split("/")[0]
    for imported in imports(PACKAGE / name):
        if imported.split(".")[0] == "ticketboss":
            other = room(imported)
            allowed = storey(other) <= storey(own) or (name, other) in ARROWS_UP
            assert allowed, f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in rooms() if name.startswith("rules/")])
def test_the_rules_know_nothing_but_themselves_and_the_standard_library(name):
    for imported in imports(PACKAGE / name):
        ours = imported.startswith("ticketboss.rules")
        assert ours or imported.split(".")[0] in sys.stdlib_module_names, imported


@pytest.mark.parametrize("name", [name for name in rooms() if name.startswith("check/")])
def test_the_checker_knows_the_service_by_its_contract_alone(name):
    for imported in imports(PACKAGE / name):
        ours = imported.startswith("ticketboss.check")
        assert ours or imported.split(".")[0] in sys.stdlib_module_names, imported


# What only some may know: the names, and the modules that may import them.
KNOWN_TO = {
    "psycopg2": {"data/database.py"},
    "ticketboss.data.database": {
        *("__init__.py", "cli.py", "config.py", "serving/startup.py"),
        *("data/archive.py", "data/keys.py", "data/migrations.py", "data/store.py"),
        "data/verify.py",
        *("selling/batch.py", "web/scrape.py"),
    },
    "flask": {"__init__.py", "cli.py", "web/"},
    "marshmallow": {"web/schemas.py", "web/shapes.py"},
    "gunicorn": {"serving/", "web/bodies.py"},
    "threading": {
        "check/clients.py",
        *("data/database.py", "data/keys.py", "selling/line.py", "serving/worker.py"),
        *("logs.py", "metrics.py", "waiting.py", "web/access.py"),
    },
}


@pytest.mark.parametrize("name", KNOWN_TO)
def test_what_one_place_knows_no_other_imports(name):
    knowing = {
        module
        for module, file in rooms().items()
        if any((imported + ".").startswith(name + ".") for imported in imports(file))
    }
    allowed = KNOWN_TO[name]
    assert {m for m in knowing if not any(m.startswith(place) for place in allowed)} == set()
    assert knowing, f"nothing imports {name} any more"


def test_only_the_schemas_know_camel_case():
    """Members of the contract appear elsewhere only in sentences for people."""
    members = {"eventId", "partnerId", "totalSeats", "availableSeats", "holdSeconds", "expiresAt"}
    for name, file in rooms().items():
        if name == "web/schemas.py" or name.startswith("check/"):  # a client of the contract
            continue
        strings = {
            node.value
            for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & members, name


def test_no_test_reaches_into_what_is_private():
    """What a test needs to see has a name that says so."""
    tests = Path(__file__).parent
    for file in [*tests.glob("*.py"), *tests.glob("benchmark/*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                # What a named tuple or a Flask proxy offers, and has to call so.
                offered = node.attr in ("_asdict", "_replace", "_fields", "_get_current_object")
                assert own or offered, f"{file.name}:{node.lineno} uses {node.attr}"
