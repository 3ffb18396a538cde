"""What the documents say is so: their curl lines, tables, SQL, commands and links."""

import contextlib
import dataclasses
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from serving import ROOT
from test_structure import STOREYS

from ticketboss.config import SECRETS, Config, ConfigurationError, load
from ticketboss.rules import errors, limits
from ticketboss.selling import batch
from ticketboss.serving import wire
from ticketboss.web.refusals import REFUSALS

# The text of every document, by its path.
DOCUMENTS = {
    str(file.relative_to(ROOT)): file.read_text("utf-8")
    for folder in (".", "docs", "tests/benchmark")
    for file in sorted((ROOT / folder).glob("*.md"))
}
EVERYTHING = "\n".join(DOCUMENTS.values())
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
ADDRESS = "http://127.0.0.1:8080"
# Printed between two commands, so that their answers can be told apart.
BORDER = "\x1e"
# Its bounds, by name; to import it would set up the logs of a server.
GUNICORN = dict(
    re.findall(
        r"^limit_request_(\w+) = (\d+)$",
        (ROOT / "ticketboss/serving/gunicorn_conf.py").read_text("utf-8"),
        re.MULTILINE,
    )
)


def blocks(text: str, *languages: str) -> list[str]:
    """Return the fenced blocks of a text in some languages, in order."""
    return [block for language, block in FENCE.findall(text) if language in languages]


def table(*head: str) -> list[list[str]]:
    """Return the cells of the one table of all documents with this head."""
    top = "| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|\n"
    assert EVERYTHING.count(top) == 1
    rows = EVERYTHING.partition(top)[2].partition("\n\n")[0].strip().splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    assert all(len(row) == len(head) for row in cells)
    return cells


def bare(cell: str) -> str:
    return cell.strip("`")


# --- The curl lines ---------------------------------------------------------------


@dataclasses.dataclass
class Command:
    """A command line, and what a document shows as its output."""

    text: str
    shown: str


def commands(text: str) -> list[Command]:
    """Return what the console blocks show after each prompt, and every line of sh blocks."""
    found = []
    for block in blocks(text, "console", "sh"):
        continued = False
        for line in block.splitlines():
            if continued:
                found[-1].text += "\n" + line
            elif line.startswith("$ "):
                found.append(Command(line.removeprefix("$ "), ""))
            else:
                found[-1].shown += line + "\n"
            continued = line.endswith("\\")
    return found


class Names:
    """Make two texts comparable that differ in ids and times only.

    Every id becomes a number, the same wherever it appears, so an id that is
    carried over to the wrong place is a difference.
    """

    UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
    REQUEST_ID = re.compile(r'("requestId": ?)"[0-9a-f]{32}"')
    KEY_ID = re.compile(r'("keyId": ?)"[0-9a-z]{12}"')
    DAY = re.compile(r'"\d{4}-\d\d-\d\d"')
    CURSOR = re.compile(r'("next": ?)"[A-Za-z0-9_-]{48}"')

    def __init__(self):
        self._known: dict[str, str] = {}

    def plain(self, text: str) -> str:
        text = self.UUID.sub(
            lambda match: self._known.setdefault(match[0], f"id-{len(self._known) + 1}"), text
        )
        text = self.TIME.sub("a-time", text)
        text = self.DAY.sub('"a-day"', self.KEY_ID.sub(r'\1"a-key"', text))
        text = self.REQUEST_ID.sub(r'\1"a-request"', text)
        return self.CURSOR.sub(r'\1"a-cursor"', text)


def parsed(output: str) -> tuple[list[str], object]:
    """Return the status line and headers of an answer, if they are shown, and its JSON."""
    head = []
    body = output
    if output.startswith("HTTP/"):
        top, _, body = output.replace("\r\n", "\n").partition("\n\n")
        head = top.strip().split("\n")
    return head, json.loads(body) if body.strip() else None


# The documents with curl lines, and of how many calls at least.
CALLS = {"README.md": 7, "docs/api.md": 20, "docs/access.md": 5}


def test_no_other_document_shows_commands_and_their_answers():
    assert {name for name, text in DOCUMENTS.items() if commands(text)} == set(CALLS)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize("name", CALLS)
def test_the_curl_lines_work_in_their_order_and_give_the_answers_shown(name, server, serve):
    if name == "docs/access.md":
        server = serve(AUTH="keys")
    lines = commands(DOCUMENTS[name])
    assert sum(command.text.count(ADDRESS) for command in lines) >= CALLS[name]
    script = f"\nprintf '%s' '{BORDER}'\n".join(command.text for command in lines)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace(ADDRESS, _address(server))],
        env={
            **server.environment,
            "NO_PROXY": "*",
            "no_proxy": "*",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    outputs = done.stdout.split(BORDER)
    assert len(outputs) == len(lines)
    here, there = Names(), Names()
    for command, output in zip(lines, outputs, strict=True):
        head, body = parsed(here.plain(output))
        shown_head, shown_body = parsed(there.plain(command.shown))
        assert body == shown_body, command.text
        assert bool(head) == bool(shown_head), command.text
        assert set(shown_head) <= set(head), command.text
        # Members are read by people too: they come in the order shown.
        assert json.dumps(body) == json.dumps(shown_body), command.text


def _address(server) -> str:
    return f"http://127.0.0.1:{server.port}"


# --- The tables -------------------------------------------------------------------


def test_the_error_table_lists_exactly_what_the_service_can_send(server):
    rows = table("status", "`code`", "when", "what to do")
    assert rows == [[str(r.status), f"`{r.code}`", r.when, r.remedy] for r in REFUSALS]
    listed = [(refusal.status, refusal.code) for refusal in REFUSALS]
    assert len(listed) == len(set(listed))
    assert listed == sorted(listed, key=lambda row: row[0])
    assert set(listed) == facts(errors.TicketBossError) | routing(server) | parsing(server) | LATE


def facts(fact: type) -> set[tuple[int, str]]:
    """Return status and code of a fact and of everything derived from it."""
    return {(fact.status, fact.code)}.union(*(facts(kind) for kind in fact.__subclasses__()))


def routing(server) -> set[tuple[int, str]]:
    """Return what werkzeug refuses before a blueprint sees it."""
    with contextlib.closing(server.client()) as client:
        answers = [
            client.get("/nothing"),
            client.call("PUT", "/api/v1/reservations", {}),
            client.post("/api/v1/reservations", b" " * (limits.BODY_BYTES + 1), **JSON),
        ]
    return {(answer.status, answer.json["code"]) for answer in answers}


JSON = {"content_type": "application/json"}

# What gunicorn refuses before the application sees it, by the rest of the request.
UNREADABLE = {
    400: b"GET / HTTP/9.9\r\n\r\n",
    414: b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    417: b"GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n",
    431: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 60 + b"\r\n",
    501: b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
}


def parsing(server) -> set[tuple[int, str]]:
    """Return what gunicorn refuses before the application sees it."""
    found = set()
    for status, message in UNREADABLE.items():
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(message)
            answer = connection.makefile("rb").read().decode("latin-1")
        head, _, body = answer.partition("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} "), head
        found.add((status, json.loads(body)["code"]))
    return found


# What the worker tells who takes too long; the tests of the front door see it.
LATE = {(408, "request_timeout")}


def test_an_error_outside_the_application_has_the_code_of_the_table():
    answer, request_id = wire.refusal(500)
    body = json.loads(answer.decode().partition("\r\n\r\n")[2])
    assert (body["code"], body["requestId"]) == ("internal_error", request_id)


def test_the_members_that_the_error_table_names_are_those_of_the_errors(server):
    told = " ".join(row[2] for row in table("status", "`code`", "when", "what to do"))
    source = "".join(file.read_text("utf-8") for file in (ROOT / "ticketboss").rglob("*.py"))
    # Members of an error are written as keywords where it is raised.
    raised = re.findall(r"raise [A-Z]\w+\(([^()]+(?:\([^()]*\))?[^()]*)\)", source)
    names = {name for text in raised for name in re.findall(r"\b([a-z_]+)=", text)}
    assert len(names) >= 8
    for name in names:
        first, *rest = name.split("_")
        assert f"`{first}{''.join(map(str.capitalize, rest))}`" in told


class Recorder(dict):
    """An empty environment that remembers what was looked for in it."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def get(self, name, default=None):
        self.names.add(name)
        return default


def test_the_table_of_503_has_every_code_and_what_the_log_says():
    rows = table("`code`", "in the log", "what it means", "what to do")
    refusals = errors.TicketBossError.__subclasses__()
    assert {bare(row[0]) for row in rows} == {e.code for e in refusals if e.status == 503}
    said = set(re.findall(r"`(the database [a-zA-Z_ ]+)`", " ".join(row[1] for row in rows)))
    assert len(said) == 2
    source = (ROOT / "ticketboss/data/database.py").read_text("utf-8")
    assert all(f'"{line}"' in source for line in said | {"the database can be used again"})


CONFIGURATION = ("variable", "default", "what it takes")


def test_the_configuration_table_lists_exactly_the_variables_that_are_read():
    environment = Recorder()
    load(environment)
    files = {f"{name}_FILE" for name in SECRETS}
    assert len(environment.names) == len(dataclasses.fields(Config)) + len(files)
    listed = [bare(row[0]) for row in table(*CONFIGURATION)]
    assert sorted(listed) == sorted(set(environment.names) - files)
    for name in files:
        assert f"`{name}`" in DOCUMENTS["docs/operations.md"]


@pytest.mark.parametrize("row", table(*CONFIGURATION), ids=lambda row: bare(row[0]))
def test_the_configuration_table_tells_the_default_and_the_range(row):
    variable, default, takes = bare(row[0]), bare(row[1]), row[2].replace("`", "")
    field = "data" if variable == "TICKETBOSS_DATA" else variable.lower()
    expected = getattr(Config(), field)
    assert default == ("not set" if expected in (None, ()) else str(expected))
    if default != "not set":
        assert load({variable: default}) == load({})
    refusal = ""
    try:
        load({variable: "\n"})
    except ConfigurationError as error:
        refusal = str(error)
    ranges = re.findall(r"\d+ to \d+(?: (?:printable ASCII )?characters)?", refusal)
    assert bool(ranges) == any(character.isdigit() for character in takes.replace("0.0.0.0", ""))
    for taken in ranges:
        assert taken in takes


def test_the_table_of_calls_lists_exactly_the_routes(application):
    listed = {bare(row[0]) for row in table("call", "what it does")}
    routes = {
        f"{method} {rule.rule}"
        for rule in application.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    camel = re.compile(r"\{([a-z]+)([A-Z])([a-z]+)\}")
    assert {
        camel.sub(lambda m: f"<{m[1]}_{m[2].lower()}{m[3]}>", call) for call in listed
    } == routes


def test_the_table_of_modules_lists_exactly_the_modules():
    listed = [bare(row[0]) for row in table("module", "what it is")]
    package = ROOT / "ticketboss"
    modules = [str(file.relative_to(package)) for file in package.rglob("*.py")]
    assert sorted(listed) == sorted(name for name in modules if "/__init__" not in name)


@pytest.mark.parametrize("row", table("word", "meaning", "in the code"), ids=lambda row: row[0])
def test_every_word_of_the_glossary_is_one_of_the_code(row):
    module, name = re.fullmatch(r"`([a-z/_]+)\.py` `([A-Za-z_.]+)`", row[2]).groups()
    found = importlib.import_module(f"ticketboss.{module.replace('/', '.')}")
    for part in name.split("."):
        found = getattr(found, part)


# --- The pictures -----------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = {
    file.stem: ElementTree.fromstring(file.read_text("utf-8"))
    for file in (ROOT / "docs/pictures").glob("*.svg")
}


def shown(picture: str) -> dict[str, float]:
    """Return the words in bold of a picture, and how far below its top they are."""
    return {
        text.text: float(text.get("y"))
        for text in PICTURES[picture].iter(f"{SVG}text")
        if text.get("class") == "name"
    }


def test_the_pictures_have_a_title_and_one_style_for_light_and_dark():
    assert all(picture.findtext(f"{SVG}title") for picture in PICTURES.values())
    (style,) = {picture.findtext(f"{SVG}style") for picture in PICTURES.values()}
    assert "@media (prefers-color-scheme: dark)" in style


def test_the_picture_of_the_rooms_shows_every_room_on_its_storey():
    heights = shown("rooms")

    def height(name: str) -> float:
        is_room = name and (ROOT / "ticketboss" / name).is_dir()
        return heights[name if is_room else f"{name or '__init__'}.py"]

    # One height for each storey, the lowest first.
    storeys = [sorted({height(name) for name in names}) for names in STOREYS]
    assert storeys == [[y] for y in sorted({y for each in storeys for y in each}, reverse=True)]


def test_the_picture_of_a_part_names_the_types_that_it_goes_through():
    heights = shown("part")
    states = [name for name in heights if hasattr(batch, name)]
    assert states == ["Part", "Decided", "Sent"]


# --- A cluster --------------------------------------------------------------------


def test_the_settings_that_are_explained_are_those_of_the_files_to_copy():
    files = "\n".join(file.read_text("utf-8") for file in (ROOT / "deploy/cluster").iterdir())
    for settings, _ in table("setting", "why"):
        for setting in re.findall("`(.+?)`", settings):
            for word in setting.removesuffix("…").split(": "):
                assert word in files, setting


# --- What is promised -------------------------------------------------------------


def test_every_promise_is_explained_and_every_test_that_is_named_exists():
    promises = re.findall(r"^- \*\*(.+?)\*\*", DOCUMENTS["README.md"], re.MULTILINE)
    rows = table("promise", "what could break it", "what stands against it", "a test that shows it")
    assert [promise for promise, *_ in rows if promise] == promises
    files = [file.read_text("utf-8") for file in (ROOT / "tests").glob("test_*.py")]
    defined = set(re.findall(r"^def (test_\w+)", "\n".join(files), re.MULTILINE))
    assert {bare(test) for *_, test in rows} <= defined


# --- The rest ---------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks(EVERYTHING, "sql"), ids=lambda block: block.split()[0])
def test_the_sql_that_is_shown_is_the_sql_that_runs(block):
    shown = [line for line in squeezed(block) if "…" not in line]
    assert shown
    # Line by line, in the same order, with gaps at most: `in` moves the iterator on.
    files = (iter(squeezed(file.read_text("utf-8"))) for file in (ROOT / "sql").rglob("*.sql"))
    assert any(all(line in rest for line in shown) for rest in files)


def squeezed(text: str) -> list[str]:
    """Return the lines of a text without their indentation."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", EVERYTHING, re.MULTILINE))
    assert named >= {"run", "test"}
    assert named <= targets
    assert (
        set(re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)) == named
    )


def test_every_command_that_is_named_exists(application):
    named = re.findall(r"(?:flask --app |`)ticketboss (\w+)(?: ([a-z|]+))?", EVERYTHING)
    commands = application.cli.commands
    known = {"verify", "watch", "check", "events", "keys", "migrate"}
    assert {command for command, _ in named} == known
    for command, parts in named:
        known = getattr(commands[command], "commands", {})
        assert {part for part in parts.split("|") if "|" in parts} <= set(known)


@pytest.mark.parametrize(
    "told",
    [
        f"up to {limits.BATCH_CHANGES} changes",
        f"`503 unavailable` after {limits.LOCK_PATIENCE:g} s",
        f"After {limits.REQUEST_DEADLINE:g} s the answer is `503 contention`",
        f"until the deadline of {limits.REQUEST_DEADLINE:g} s",
        f"stays away for {limits.DATABASE_PATIENCE:g} s",
        f"waits for {limits.MIGRATION_LOCK_TIMEOUT_MS / 1000:g} s, lets the others be served for"
        f" {limits.MIGRATION_PAUSE:g} s",
        f"After {limits.MIGRATION_PATIENCE:g} s it gives up",
        f"for up to {int(limits.REQUEST_PATIENCE + limits.REQUEST_DEADLINE)} s",
        f"{limits.SEATS_MINIMUM} to {limits.SEATS_MAXIMUM} seats",
        f"| `seats` | {limits.SEATS_MINIMUM} to {limits.SEATS_MAXIMUM} |",
        f"| `partnerId` | 1 to {limits.PARTNER_ID_LENGTH} characters",
        f"| `eventId` | 1 to {limits.EVENT_ID_LENGTH} of",
        f"| `name` | 1 to {limits.EVENT_NAME_LENGTH} characters",
        f"| `totalSeats` | 0 to {limits.TOTAL_SEATS_MAXIMUM:,} |",
        f"| `holdSeconds` | 1 to {limits.HOLD_SECONDS_MAXIMUM:,}; with all extensions"
        f" {limits.HOLD_TOTAL_SECONDS:,} s",
        f"| `limit` | 1 to {limits.LIST_MAXIMUM}, of the change feed 1 to {limits.FEED_MAXIMUM:,};"
        f" if it is left out {limits.LIST_DEFAULT}, and {limits.FEED_DEFAULT} |",
        f"| `Idempotency-Key` | 1 to {limits.IDEMPOTENCY_KEY_LENGTH} printable ASCII characters",
        f"| a body | {limits.BODY_BYTES // 1024} KiB |",
        f"| the request line, and each header | {int(GUNICORN['line']):,} bytes |",
        f"| headers | {GUNICORN['fields']} |",
        f"at most {limits.HOLD_SECONDS_MAXIMUM:,} s, with all its extensions",
        f"{limits.HOLD_TOTAL_SECONDS:,} s after the hold was made",
        f"larger than {limits.BODY_BYTES // 1024} KiB",
        f"(1 to {limits.IDEMPOTENCY_KEY_LENGTH} printable ASCII characters",
        f"`limit` (1–{limits.LIST_MAXIMUM})",
        f"`limit` (1–{limits.FEED_MAXIMUM})",
    ],
)
def test_every_bound_that_is_told_is_the_one_in_force(told):
    assert told in " ".join(EVERYTHING.split())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_is_named_exists(name):
    for path in re.findall(r"`((?:ticketboss|sql|tests|docs|deploy)/[\w./-]*)`", DOCUMENTS[name]):
        assert (ROOT / path).exists(), path


def test_every_name_in_the_recipes_is_one_of_the_code():
    code = "".join(
        file.read_text("utf-8")
        for folder in ("ticketboss", "sql", "tests")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".sql") and file != Path(__file__)
    )
    known = set(re.findall(r"\w+", code))
    names = re.findall(r"`([A-Za-z_]+)`", DOCUMENTS["CONTRIBUTING.md"])
    assert len(names) > 10
    assert set(names) <= known


def headings(text: str) -> list[str]:
    """Return what a link would call the headings of a document."""
    return [
        re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    ]


def links(name: str) -> list[tuple[Path, str]]:
    """Return the file and the heading to which each link of a document leads."""
    found = re.findall(r"\]\(([^)]+)\)", FENCE.sub("", DOCUMENTS[name]))
    parts = [link.partition("#") for link in found if "://" not in link]
    folder = (ROOT / name).parent
    return [
        ((folder / place).resolve() if place else ROOT / name, heading)
        for place, _, heading in parts
    ]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name):
    for file, heading in links(name):
        assert file.exists(), file
        if heading:
            assert headings(file.read_text("utf-8")).count(heading) == 1, heading


def test_every_document_and_picture_can_be_reached_from_the_readme():
    reached, ways = set(), [ROOT / "README.md"]
    while ways:
        file = ways.pop()
        if file not in reached:
            reached.add(file)
            name = str(file.relative_to(ROOT))
            ways += [place for place, _ in links(name)] if name in DOCUMENTS else []
    pictures = {file for folder in ("docs", "tests") for file in (ROOT / folder).rglob("*.svg")}
    assert {ROOT / name for name in DOCUMENTS} | pictures <= reached


def test_the_readme_can_be_read_in_one_go():
    assert len(DOCUMENTS["README.md"].splitlines()) < 200


def test_the_measurements_that_are_shown_are_those_of_the_benchmark():
    page = DOCUMENTS["docs/performance.md"]
    shown, _ = blocks(page, "text")
    lines = squeezed(shown)
    results = json.loads((ROOT / "tests/benchmark/results.json").read_text("utf-8"))
    for row in results["rows"]:
        measured = row["value"] if isinstance(row["value"], int) else f"{row['value']:.2f}"
        (line,) = (line for line in lines if line.startswith(row["name"]))
        assert line.removeprefix(row["name"]).split()[0] == str(measured)
        assert line.endswith(row["detail"])
    for point in results["connections"]:
        assert any(
            line.split()[:2] == [str(point["connections"]), f"{point['rate']:,.0f}"]
            for line in lines
        )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_lines_are_short_enough_to_be_read_in_a_terminal(name):
    text = FENCE.sub("", DOCUMENTS[name])
    lines = [line for line in text.splitlines() if not line.startswith(("|", "!", "<", "    "))]
    assert [line for line in lines if len(line) > 100] == []
