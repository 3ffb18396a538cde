"""What a release is made of: what is in it, what it needs, that it serves without the checkout."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from serving import ROOT, Server, free_port

FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
SOURCES = ("ticketboss", "sql", *FILES)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory) -> Path:
    """Build both, the wheel of the sdist; of a copy: setuptools leaves its work beside it.

    TEST_DIST is the folder of some that are built.
    """
    if ready := os.environ.get("TEST_DIST"):
        return Path(ready)
    copy = tmp_path_factory.mktemp("sources")
    for name in (*SOURCES, "MANIFEST.in", "tests"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    built = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", str(built), str(copy))
    return built


@pytest.fixture(scope="session")
def wheel(distributions) -> Path:
    (wheel,) = distributions.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """Install the wheel and what it needs, and nothing else, in an environment of its own."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    run(python, "-m", "pip", "install", "--disable-pip-version-check", str(wheel))
    return environment / "bin"


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_the_code_and_every_statement(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("ticketboss/")}
    code = {str(file.relative_to(ROOT)) for file in (ROOT / "ticketboss").rglob("*.py")}
    sql = {
        f"ticketboss/sql/{file.relative_to(ROOT / 'sql')}"
        for file in (ROOT / "sql").rglob("*")
        if file.suffix in (".sql", ".py")
    }
    assert len(sql) > 10
    data = {"py.typed", "web/board.html", "web/docs.html", "web/examples.json"}
    assert names == code | sql | {f"ticketboss/{name}" for name in data}


def test_the_source_distribution_holds_what_the_wheel_is_made_of_and_no_tests(distributions):
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    made = [name for name in names if "/" not in name and not name.endswith(".egg-info")]
    assert sorted(made) == sorted(["", "PKG-INFO", "MANIFEST.in", *SOURCES])


def test_the_changelog_tells_of_this_version():
    version, log = metadata.version("ticketboss"), (ROOT / "CHANGELOG.md").read_text("utf-8")
    dated = re.search(rf"^## \[{re.escape(version)}\] - 20\d\d-\d\d-\d\d$", log, re.MULTILINE)
    assert dated or f"Version {version} has not been released yet." in log


def test_an_installation_needs_four_packages_and_caps_each(installed):
    program = (
        "import json; from importlib.metadata import requires; print(json.dumps(requires('{}')))"
    )
    done = subprocess.run(
        [installed / "python", "-c", program.format("ticketboss")],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    needs = [need for need in json.loads(done.stdout) if "extra ==" not in need]
    names = sorted(need.partition("<")[0].partition(">")[0] for need in needs)
    assert names == ["flask", "gunicorn", "marshmallow", "psycopg2-binary"]
    assert all("<" in need for need in needs)


def locked(name: str) -> dict[str, set[str]]:
    """Return the versions of a lock by package: where markers differ there are several."""
    found: dict[str, set[str]] = {}
    lines = (ROOT / "deploy" / "locks" / f"{name}.txt").read_text("utf-8").splitlines()
    for line in lines:
        if pinned := re.match(r"([a-z0-9-]+)(?:\[[a-z]+\])?==(\S+)", line):
            found.setdefault(pinned[1], set()).add(pinned[2])
        else:
            assert re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?\Z", line), line
    return found


@pytest.mark.parametrize(
    ("lock", "extra"), [("serve", None), ("run", "embedded"), ("test", "test")]
)
def test_the_locks_have_what_is_asked_for(lock, extra):
    asked = [Requirement(text) for text in metadata.requires("ticketboss")]
    versions = locked(lock)
    for one in asked:
        if one.marker is None or (extra and one.marker.evaluate({"extra": extra})):
            assert any(one.specifier.contains(v) for v in versions[canonicalize_name(one.name)])


def test_what_is_tested_is_what_is_locked():
    versions = locked("test")
    here = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    assert "pytest" in versions
    for name in versions.keys() & here.keys():
        assert here[name] in versions[name], "make clean, and begin anew"


def test_an_installation_serves_from_an_empty_folder(installed, dsn, tmp_path):
    command = [installed / "gunicorn", "-c", "python:ticketboss.serving.gunicorn_conf"]
    server = Server(dsn)
    server.process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=server.environment,
        stdin=subprocess.DEVNULL,
        stdout=server.log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with server, contextlib.closing(server.client()) as http:
        server.wait_until_it_answers()
        made = http.post("/api/v1/reservations", {"partnerId": "abc-corp", "seats": 3})
        assert made.status == 201
        assert http.get(made.headers["Location"]).json["seats"] == 3
        assert server.stop() == 0
    assert list(tmp_path.iterdir()) == []


def test_an_installation_without_a_database_says_what_is_missing(installed, tmp_path):
    environment = {
        **os.environ,
        "DATABASE_URL": "",
        "TICKETBOSS_DATA": str(tmp_path / "data"),
        "PORT": str(free_port()),
    }
    for command in (
        [installed / "gunicorn", "-c", "python:ticketboss.serving.gunicorn_conf"],
        [installed / "flask", "--app", "ticketboss", "verify"],
        [installed / "ticketboss", "verify"],
        [installed / "ticketboss", "migrate"],
    ):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 1
        assert done.stderr == (
            "ticketboss: DATABASE_URL is not set, and the embedded PostgreSQL is not installed:"
            " pip install 'ticketboss[embedded]'\n"
        )
