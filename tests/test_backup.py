"""Backups and their way back, with the lines that docs/operations.md tells an operator to write."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import ROOT, Server, new_folder, postgresql, run_sql, wait_for
from test_releases import Buyer

from ticketboss.serving import embedded

pytestmark = pytest.mark.skipif(
    not (embedded.programs() / "pg_dump").exists(),
    reason="this PostgreSQL has no pg_dump beside its server",
)

OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
SECTION = OPERATIONS.partition("\n## Backup and restore\n")[2].partition("\n## ")[0]
DUMP, RESTORE, BASE, RECOVER, VERIFY = re.findall(
    r"^```bash\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE
)
RESERVATIONS = "/api/v1/reservations"
CHANGES = "/api/v1/events/node-meetup-2025/changes"
OFFER = {"partnerId": "abc-corp", "seats": 2}


@pytest.fixture
def folder():
    """Give a folder with a short path, for sockets are in it, that PostgreSQL may write to."""
    path = new_folder("ticketboss-test-")
    give(path)
    yield path
    shutil.rmtree(path)


def give(path: Path) -> None:
    """Make what is at a path that of the account that runs PostgreSQL."""
    if owner := embedded.owner_account():
        for each in (path, *path.rglob("*")):
            os.chown(each, owner.pw_uid, owner.pw_gid)


def run(lines: str, folder: Path, database: str, restored: str = "") -> None:
    """Run lines of the page in a folder, which is where it has /backup."""
    path = f"{embedded.programs()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines.replace("/backup", str(folder))],
        cwd=folder,
        env={**os.environ, "PATH": path, "DATABASE_URL": database, "RESTORED_URL": restored},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def version(dsn: str) -> int:
    ((number,),) = run_sql(dsn, "SELECT version FROM events WHERE event_id = 'node-meetup-2025'")
    return number


def test_a_dump_made_during_a_sale_is_whole_when_it_is_restored(
    folder, dsn, server, empty_database
):
    buyer = Buyer(server)
    buyer.start()
    try:
        assert wait_for(lambda: version(dsn) > 20)
        run(DUMP, folder, dsn)
        dumped_before = version(dsn)
    finally:
        buyer.stopped = True
        buyer.join()
    assert buyer.failures == []
    with contextlib.closing(server.client()) as http:
        assert http.post(RESERVATIONS, OFFER).status == 201
    cursor = version(dsn)
    run(RESTORE + VERIFY, folder, dsn, empty_database)
    assert 20 < version(empty_database) <= dumped_before < cursor
    with (
        Server(empty_database, WORKERS="1") as restored,
        contextlib.closing(restored.client()) as http,
    ):
        # Who has followed the event further is told, and only until it has got that far.
        ahead = http.get(f"{CHANGES}?after={cursor}")
        assert (ahead.status, ahead.json["code"]) == (409, "cursor_ahead")
        while version(empty_database) < cursor:
            assert http.post(RESERVATIONS, OFFER).status == 201
        assert http.get(f"{CHANGES}?after={cursor}").json["items"] == []
    run(VERIFY, folder, dsn, empty_database)


def test_a_base_backup_and_what_was_archived_lead_to_any_moment(folder):
    there, backup = folder / "there", folder / "backup"
    for path in (there, backup, backup / "wal"):
        path.mkdir()
    give(folder)
    with postgresql(there):
        pass
    archiving = re.findall(
        r"^#(archive_\w+ = .+)$", (ROOT / "deploy" / "postgresql.conf").read_text(), re.MULTILINE
    )
    assert len(archiving) == 2
    with (embedded.Server(there).cluster / "postgresql.conf").open("a") as file:
        file.write("\n".join(archiving).replace("/backup", str(backup)) + "\n")
    with postgresql(there) as dsn, Server(dsn, WORKERS="1") as server:
        with contextlib.closing(server.client()) as http:
            assert http.post(RESERVATIONS, OFFER).status == 201
            run(BASE, backup, dsn)
            for _ in range(3):
                assert http.post(RESERVATIONS, OFFER).status == 201
            ((moment, good),) = run_sql(dsn, "SELECT clock_timestamp()::text, version FROM events")
            assert http.post(RESERVATIONS, OFFER).status == 201
        ((last,),) = run_sql(dsn, "SELECT pg_walfile_name(pg_switch_wal())")
        assert wait_for(lambda: (backup / "wal" / last).exists())
    (here := folder / "here").mkdir()
    lines = re.sub(r"'\d{4}-.*?'", f"'{moment}'", RECOVER)
    assert lines != RECOVER
    run(lines, backup, "")
    # The embedded server has its socket in the folder of its data; the copy is to have its own.
    (backup / "base" / ".s.PGSQL.5432.lock").unlink()
    (backup / "base").rename(here / "postgresql")
    give(folder)
    with postgresql(here) as restored:
        assert wait_for(lambda: run_sql(restored, "SELECT pg_is_in_recovery()") == [(False,)])
        assert version(restored) == good == 4
        run(VERIFY, backup, "", restored)
        with (
            Server(restored, WORKERS="1") as server,
            contextlib.closing(server.client()) as http,
        ):
            assert http.post(RESERVATIONS, OFFER).json["version"] == 5
