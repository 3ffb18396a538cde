"""The commands at a terminal: `ticketboss`, beside `flask --app ticketboss`."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
from test_conditions import eventually

from ticketboss import cli

PROGRAM = Path(sys.executable).with_name("ticketboss")
RESERVATIONS = "/api/v1/reservations"
VERSION = metadata.version("ticketboss")


def run(dsn, *arguments):
    environment = os.environ | {"DATABASE_URL": dsn}
    return subprocess.run(
        [PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


def commands(group, path=()):
    """Return every command and group below one, with the words that lead to it."""
    found = [(path, group)]
    for name, command in getattr(group, "commands", {}).items():
        found += commands(command, (*path, name))
    return found


def test_it_tells_its_version_as_livez_does(client, dsn):
    assert run(dsn, "--version").stdout == f"ticketboss, version {VERSION}\n"
    assert client.get("/livez").json["version"] == VERSION


def test_it_has_the_commands_of_flask(application, dsn):
    assert set(cli.main.commands) <= set(application.cli.commands)
    done = run(dsn, "events", "show", "node-meetup-2025")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Node.js Meet-up" in done.stdout


@pytest.mark.parametrize(("path", "command"), commands(cli.main), ids=str)
def test_every_help_shows_an_example_that_can_be_parsed(path, command):
    context = click.Context(command, info_name=" ".join(("ticketboss", *path)))
    examples = re.findall(r"^    (?:\S+=\S+ )?ticketboss (.*)$", command.get_help(context), re.M)
    assert examples
    for example in examples:
        words = example.partition(" |")[0]
        words = re.findall(r"'[^']*'|\S+", words)
        words = [word.strip("'") for word in words]
        assert tuple(words[: len(path)]) == path
        parsed, rest = cli.main, words
        while isinstance(parsed, click.Group):
            _, parsed, rest = parsed.resolve_command(click.Context(parsed), rest)
        parsed.make_context(parsed.name, rest)


@pytest.fixture
def watch(dsn, tmp_path):
    """Give a function that starts to watch, at a terminal or not, and returns what it printed."""
    started, terminals = [], []

    def start(*arguments, terminal=False):
        output = tmp_path / f"output-{len(started)}"
        with output.open("w") as file:
            out, end = pty.openpty() if terminal else (None, file.fileno())
            process = subprocess.Popen(
                [PROGRAM, "watch", *arguments],
                env=os.environ | {"DATABASE_URL": dsn},
                stdout=end,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        if not terminal:
            return process, output.read_text
        os.close(end)
        os.set_blocking(out, False)
        terminals.append(out)
        text = []

        def read():
            with contextlib.suppress(OSError):  # nothing new, or the end
                text.append(os.read(out, 65536))
            return b"".join(text).decode().replace("\r\n", "\n")

        return process, read

    yield start
    for process in started:
        process.kill()
        process.wait()
    for out in terminals:
        os.close(out)


def test_watch_shows_each_change_of_an_event_as_it_comes_one_a_line(watch, client):
    place = client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 3}).location
    process, output = watch("node-meetup-2025")
    eventually(lambda: output().count("\n") == 1)
    client.delete(place)
    eventually(lambda: output().count("\n") == 2)
    first, second = output().splitlines()
    assert re.fullmatch(r"\S+T\S+Z +1  reserved +3 seats +497 left +abc-corp", first)
    assert re.fullmatch(r"\S+T\S+Z +2  cancelled +3 seats +500 left +abc-corp", second)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert output().splitlines() == [first, second]


def test_watch_draws_a_bar_at_a_terminal(watch, client, sql):
    sql("UPDATE events SET initial_seats = 20, total_seats = 20, available_seats = 20")
    client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 5})
    _, output = watch("node-meetup-2025", terminal=True)
    eventually(lambda: "\n" in output())
    assert f"15 left  {'█' * 15}{'░' * 5}  abc-corp" in output()


def test_watch_begins_with_the_latest_changes_or_where_it_is_told(watch, client):
    for _ in range(12):
        client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 1})
    for arguments, count in (((), 10), (("--after", "0"), 12), (("--after", "11"), 1)):
        _, output = watch("node-meetup-2025", *arguments)
        eventually(lambda output=output, count=count: output().count("\n") == count)


def test_watch_says_in_one_line_what_it_cannot_do(dsn):
    done = run(dsn, "watch", "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: Event not found\n"
