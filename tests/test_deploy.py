"""The files of deploy/, each tried by the program that reads it, or by a schema."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values
from psycopg2.extensions import parse_dsn
from serving import (
    ROOT,
    Client,
    Server,
    connect,
    free_port,
    new_folder,
    postgresql,
    run_sql,
    wait_for,
)
from test_documents import Recorder
from test_packaging import SOURCES

from ticketboss.config import Config, load
from ticketboss.rules import limits
from ticketboss.serving import embedded

DEPLOY = ROOT / "deploy"
RESERVATIONS = "/api/v1/reservations"
OFFER = {"partnerId": "abc-corp", "seats": 3}


def text(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


def program(name: str) -> str:
    """Return the path of a program that is not ours; skip the test where there is none."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    return path or pytest.skip(f"{name} is not installed")


def settings() -> set[str]:
    """Return the names of all variables that the service reads."""
    environment = Recorder()
    load(environment)
    return environment.names


def sells(port: int) -> bool:
    """Tell whether a reservation can be made, and found again, at a port."""
    with contextlib.suppress(OSError), contextlib.closing(Client(port)) as http:
        made = http.post(RESERVATIONS, OFFER)
        return made.status == 201 and http.get(made.headers["Location"]).json == made.json
    return False


# --- The settings -------------------------------------------------------------------


def test_the_example_of_an_environment_names_every_setting_once():
    names = re.findall(r"^#?([A-Z_]+)=", text("environment.example"), re.MULTILINE)
    assert sorted(names) == sorted(settings())


def test_what_the_example_of_an_environment_shows_as_a_default_is_one():
    shown = re.findall(r"^#([A-Z_]+)=(.+)$", text("environment.example"), re.MULTILINE)
    assert len(shown) > 5
    for name, value in shown:
        assert load({name: value}) == load({}), name


def test_the_example_of_an_environment_is_taken_as_it_is():
    # With no secret in it: without one there is no admin, and no database either.
    assert load(dotenv_values(DEPLOY / "environment.example")) == Config(
        data=Path(".data").absolute(), auth="keys"
    )


# --- systemd ------------------------------------------------------------------------


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    analyze = program("systemd-analyze")
    unit = tmp_path / "ticketboss.service"
    gunicorn = Path(sys.executable).parent / "gunicorn"
    unit.write_text(text(unit.name).replace("/opt/ticketboss/bin/gunicorn", str(gunicorn)))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_finds_the_unit_well_confined():
    done = subprocess.run(
        # In tenths; an ordinary service has 96 of 100.
        [program("systemd-analyze"), "security", "--offline=true", "--threshold=15"]
        + [DEPLOY / "ticketboss.service"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-100:]


# --- PostgreSQL, and pgbouncer before it --------------------------------------------


@pytest.fixture
def folder():
    """Give a folder with a short path, for sockets are in it."""
    path = new_folder("ticketboss-test-")
    yield path
    shutil.rmtree(path)


def test_postgresql_takes_every_setting_and_sells_with_them(folder):
    with postgresql(folder):
        pass
    cluster = embedded.Server(folder).cluster
    with (cluster / "postgresql.conf").open("a") as file:
        file.write(text("postgresql.conf"))
    names = re.findall(r"^(\w+) = ", text("postgresql.conf"), re.MULTILINE)
    with postgresql(folder) as dsn:
        taken = run_sql(
            dsn,
            "SELECT name FROM pg_file_settings"
            " WHERE sourcefile LIKE '%%/postgresql.conf' AND error IS NULL AND name = ANY (%s)",
            [names],
        )
        assert {name for (name,) in taken} == set(names)
        # The embedded server has these two by its command line: the same.
        assert run_sql(dsn, "SELECT name FROM pg_settings WHERE pending_restart") == []
        with Server(dsn, WORKERS="1") as server:
            assert sells(server.port)


def test_pgbouncer_takes_its_settings_and_the_service_sells_through_it(folder, serving_dsn):
    port = free_port()
    database = parse_dsn(serving_dsn)
    here = text("pgbouncer.ini")
    for there, replacement in {
        "host=10.0.0.21 port=5432 dbname=ticketboss": (
            f"host={database['host']} dbname=postgres user=ticketboss"
        ),
        "listen_port = 6432": f"listen_port = {port}",
        # Its socket's folder lets in nobody else; there are no passwords.
        "auth_type = scram-sha-256\nauth_file = /etc/pgbouncer/userlist.txt": "auth_type = any",
    }.items():
        assert here.count(there) == 1
        here = here.replace(there, replacement)
    file = folder / "pgbouncer.ini"
    file.write_text(here)
    folder.chmod(0o755)
    owner = embedded.owner_account()  # it does not run as root, just as PostgreSQL does not
    account = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [program("pgbouncer"), file],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stderr=output,
            **account,
        )
    dsn = f"postgresql://ticketboss@127.0.0.1:{port}/ticketboss?sslmode=disable"
    try:
        assert wait_for(lambda: accepts(dsn) or process.poll() is not None)
        with Server(dsn, WORKERS="1") as server:
            assert sells(server.port)
        assert " WARNING " not in log.read_text()
        assert " ERROR " not in log.read_text()
    finally:
        process.terminate()
        process.wait()


def accepts(dsn: str) -> bool:
    with contextlib.suppress(Exception):
        connect(dsn).close()
        return True
    return False


# --- Containers ---------------------------------------------------------------------


def environment_of(image: str) -> dict[str, str]:
    lines = re.findall(r"^ENV (.+)$", image, re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def test_the_image_is_made_of_what_the_wheel_is_made_of():
    image = text("Dockerfile")
    copied = [
        name for line in re.findall(r"^COPY ([^-].*) \S+$", image, re.M) for name in line.split()
    ]
    assert sorted(copied) == sorted([*SOURCES, "deploy/locks/serve.txt"])
    environment = environment_of(image)
    assert environment.pop("PATH") == "/opt/ticketboss/bin:$PATH"
    assert environment.keys() <= settings()
    assert load(environment).auth == "keys"
    assert f"EXPOSE {Config().port}\n" in image


def test_the_image_starts_what_the_documents_start_and_asks_how_it_lives(server):
    def arguments(word: str) -> list[str]:
        return yaml.safe_load(re.findall(rf"^\s*{word} (\[.+\])$", text("Dockerfile"), re.M)[-1])

    operations = (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert f" {' '.join(arguments('CMD'))}\n" in operations
    (asked,) = re.findall(r"^ +CMD (\[\"python.+\])$", text("Dockerfile"), re.MULTILINE)
    _, *question = yaml.safe_load(asked)
    for port, answer in ((server.port, 0), (free_port(), 1)):
        here = [part.replace(":8080/", f":{port}/") for part in question]
        done = subprocess.run([sys.executable, *here], stderr=subprocess.DEVNULL)
        assert done.returncode == answer


def test_what_is_composed_has_its_files_and_no_secret():
    composed = yaml.safe_load(text("compose.yaml"))
    service = composed["services"]["ticketboss"]
    assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).exists()
    assert service["environment"].keys() <= settings()
    for name, other in composed["services"].items():
        for source in other.get("volumes", []):
            place = source.split(":")[0]
            assert (DEPLOY / place).exists() or place in composed["volumes"]
        for variable, value in other.get("environment", {}).items():
            if "PASSWORD" in variable or "KEY" in variable:
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
    # Requests in flight are answered before anybody is killed.
    assert service["stop_grace_period"] == "20s"


def test_the_proxy_of_what_is_composed_passes_on_a_sale(server, tmp_path):
    haproxy, port = program("haproxy"), free_port()
    here = yaml.safe_load(text("compose.yaml"))["configs"]["haproxy"]["content"]
    for there, replacement in {
        "bind :8080": f"bind 127.0.0.1:{port}",
        "ticketboss:8080": f"127.0.0.1:{server.port}",
        " resolvers docker init-addr none": "",
    }.items():
        assert here.count(there) == 1
        here = here.replace(there, replacement)
    file = tmp_path / "haproxy.cfg"
    file.write_text(here)
    proxy = subprocess.Popen(
        [haproxy, "-db", "-f", file],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert wait_for(lambda: sells(port) or proxy.poll() is not None)
        assert proxy.poll() is None
    finally:
        proxy.terminate()
        proxy.wait()


def test_haproxy_takes_the_settings_of_what_is_composed(tmp_path):
    file = tmp_path / "haproxy.cfg"
    file.write_text(yaml.safe_load(text("compose.yaml"))["configs"]["haproxy"]["content"])
    done = subprocess.run([program("haproxy"), "-c", "-f", file], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- Kubernetes ---------------------------------------------------------------------


@pytest.fixture
def resources() -> dict[str, dict]:
    return {each["kind"]: each for each in yaml.safe_load_all(text("kubernetes.yaml"))}


@pytest.mark.parametrize("version", ["1.25", "1.37"])
def test_the_manifest_is_one_of_kubernetes(version, resources):
    reason = "kubernetes-validate is not installed"
    schemas = pytest.importorskip("kubernetes_validate", reason=reason)
    assert sorted(resources) == ["Deployment", "PodDisruptionBudget", "Service"]
    for resource in resources.values():
        schemas.validate(resource, version, strict=True)


def test_the_parts_of_the_manifest_find_each_other(resources):
    deployment = resources["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert resources["Service"]["spec"]["selector"] == labels
    assert resources["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    # So that one may go, another has to be there.
    assert deployment["replicas"] > resources["PodDisruptionBudget"]["spec"]["maxUnavailable"]


def test_the_manifest_speaks_of_what_the_service_has(resources, server):
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each.get("value", "") for each in container["env"]}
    assert environment.keys() <= settings()
    assert load(environment).auth == "keys"
    assert container["ports"] == [{"name": "http", "containerPort": Config().port}]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness")}
    assert {probe["path"] for probe in probes.values()} == {"/livez"}
    asked = container["readinessProbe"]["httpGet"]["path"]
    with contextlib.closing(server.client()) as http:
        assert asked == "/api/v1/health" and http.get(asked).status == 200


def test_there_is_time_to_stop_and_to_migrate(resources):
    stops = limits.REQUEST_PATIENCE + limits.REQUEST_DEADLINE
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    _, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > int(pause) + stops
    probe = container["startupProbe"]
    starts = [probe["periodSeconds"] * probe["failureThreshold"]]
    unit = dict(re.findall(r"^(\w+)=(.+)$", text("ticketboss.service"), re.MULTILINE))
    starts.append(int(unit["TimeoutStartSec"]))
    assert min(starts) > limits.MIGRATION_PATIENCE + limits.STARTUP_PATIENCE
    assert int(unit["TimeoutStopSec"]) > stops
