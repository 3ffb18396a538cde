"""The benchmark: what it says where it cannot compare."""

import os
import subprocess
import sys

from serving import ROOT


def refusal(path, **environment) -> str:
    """Return the one line with which a comparison ends before it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmark", "--against", str(path)],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.terminate()  # one that has begun stops what it has started
    assert (process.returncode, output) == (1, "")
    (line,) = errors.splitlines()
    return line.removeprefix("bench: ")


def test_a_folder_that_is_no_checkout_is_not_compared_with(tmp_path):
    assert refusal(tmp_path) == f"--against takes a checkout of TicketBoss, not '{tmp_path}'"


def test_a_checkout_without_an_environment_is_told_how_to_get_one(tmp_path):
    application = tmp_path / "tests" / "benchmark" / "application.py"
    application.parent.mkdir(parents=True)
    application.touch()
    assert refusal(tmp_path) == f"{tmp_path} has no .venv yet: make -C {tmp_path} .venv/test"


def test_a_database_that_two_schemas_would_share_is_refused():
    assert refusal(ROOT, DATABASE_URL="postgresql:///shared") == (
        "--against needs a database for each: leave DATABASE_URL unset"
    )


def test_an_interpreter_with_the_code_of_another_checkout_is_refused(tmp_path):
    application = tmp_path / "tests" / "benchmark" / "application.py"
    application.parent.mkdir(parents=True)
    application.touch()
    (tmp_path / "sql").mkdir()
    (tmp_path / ".venv").symlink_to(sys.prefix)
    assert f"takes its SQL from {ROOT / 'sql'}: make -C {tmp_path}" in refusal(tmp_path)
