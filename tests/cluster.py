"""The checker over three nodes of PostgreSQL under Patroni, whose leader is lost in every way.

    python tests/cluster.py [--seconds 70] [--only WORD]

The files are those of deploy/cluster/, with names, ports and folders exchanged: each node has a
network namespace of its own, or an address from 127.0.1.1 to 127.0.1.3 where none can be had. Two
instances sell, one through HAProxy, one through a connection string with all three hosts. Prints a
table, and exits with status 1 if a promise was broken or a bound was not kept.
"""

import argparse
import contextlib
import json
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ordeals import asking
from serving import ROOT, Server, free_port, wait_for

from ticketboss.check.history import save, summary
from ticketboss.check.judge import judge
from ticketboss.rules import limits

PROGRAMS = "/usr/lib/postgresql/15/bin"
FILES = ROOT / "deploy" / "cluster"
NEEDED = {
    "patroni": "patroni",
    "etcd": "etcd-server",
    "haproxy": "haproxy",
    f"{PROGRAMS}/postgres": "postgresql",
    "setpriv": "util-linux",
}
ACCOUNT = "postgres"  # PostgreSQL does not run as root
NODES = (1, 2, 3)
# When the leader is lost, and for how long a node is then away.
STRIKE = 8.0
AWAY = 35.0
# What a request may take: its deadline, what an exchange that began before that may take, and
# the patience of a busy machine.
REQUEST_SECONDS = limits.REQUEST_DEADLINE + 2 * limits.DATABASE_PATIENCE + 0.5


class Loopback:
    """The nodes are addresses of the loopback: nothing comes between them."""

    def host(self, node: int) -> str:
        return f"127.0.1.{node}"

    def command(self, node: int, command: tuple[str, ...]) -> list[str]:
        """Return a command as it is run on a node."""
        return list(command)


class Namespaces:
    """Each node has a network namespace, on one bridge with those who ask (ip-netns(8))."""

    def __init__(self, stack: contextlib.ExitStack):
        self._stack = stack
        # Names of at most 15 bytes, and a net that nobody here uses.
        self._name = f"tb{os.getpid()}"
        self._net = f"10.{random.randrange(128, 255)}.{random.randrange(256)}"
        self._add(["link", "add", self._name, "type", "bridge"], ["link", "del", self._name])
        _ip("addr", "add", f"{self._net}.254/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        for node in NODES:
            inside, cable = self._inside(node), self._cable(node)
            self._add(["netns", "add", inside], ["netns", "del", inside])
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", inside)
            _ip("link", "set", cable, "master", self._name, "up")
            _ip("-n", inside, "addr", "add", f"{self.host(node)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", inside, "link", "set", device, "up")

    def host(self, node: int) -> str:
        return f"{self._net}.{node}"

    def command(self, node: int, command: tuple[str, ...]) -> list[str]:
        if node not in NODES:
            return list(command)
        return ["ip", "netns", "exec", self._inside(node), *command]

    def split(self, node: int) -> None:
        """Let a node neither hear nor be heard."""
        _ip("link", "set", self._cable(node), "down")

    def heal(self, node: int) -> None:
        _ip("link", "set", self._cable(node), "up")

    def _add(self, how: list[str], back: list[str]) -> None:
        _ip(*how)
        self._stack.callback(_ip, *back)

    def _inside(self, node: int) -> str:
        return f"{self._name}-{node}"

    def _cable(self, node: int) -> str:
        return f"{self._name}v{node}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def network(stack: contextlib.ExitStack) -> Loopback | Namespaces:
    """Return the nodes' network: namespaces, if they can be had."""
    with (
        contextlib.ExitStack() as attempt,
        contextlib.suppress(OSError, subprocess.SubprocessError),
    ):
        found = Namespaces(attempt)
        stack.push(attempt.pop_all())
        return found
    print("no network namespaces here (iproute2, and the right to make them): no split")
    return Loopback()


class Cluster:
    """Three nodes, and HAProxy in front of them."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack):
        self.network = network(stack)
        self.folder = folder
        self._stack = stack
        account = pwd.getpwnam(ACCOUNT)
        self._owner = account.pw_uid, account.pw_gid
        self._as_owner = f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"
        os.chown(folder, account.pw_uid, account.pw_gid)
        self._ports = {name: str(free_port()) for name in ("5432", "8008", "2379", "2380", "5000")}
        self._passwords = {
            f"PATRONI_{name}_PASSWORD": secrets.token_hex(16)
            for name in ("SUPERUSER", "REPLICATION", "REWIND")
        }
        self._password = secrets.token_hex(16)
        self._processes: dict[tuple[str, int], subprocess.Popen] = {}
        stack.callback(self._end)

    def start(self) -> None:
        for node in NODES:
            self.start_node(node)
        # Until there is a standby no commit returns: that is what strict means.
        assert wait_for(self.is_whole, 120), self.log()
        self._sql(
            "CREATE ROLE ticketboss LOGIN PASSWORD :'word'",
            "CREATE DATABASE ticketboss OWNER ticketboss",
        )
        config = self._file("haproxy.cfg", 1)
        self._run("haproxy", 0, "haproxy", "-db", "-f", str(config))

    def start_node(self, node: int) -> None:
        settings = self._file("etcd.env", node).read_text("utf-8")
        lines = [line for line in settings.splitlines() if line and not line.startswith("#")]
        environment = dict(line.split("=", 1) for line in lines)
        if (self.folder / f"etcd-{node}").exists():
            environment["ETCD_INITIAL_CLUSTER_STATE"] = "existing"
        self._run("etcd", node, "etcd", **environment)
        self.start_agent(node)

    def start_agent(self, node: int) -> None:
        self._run(
            "patroni", node, "patroni", str(self._file("patroni.yml", node)), **self._passwords
        )

    def _file(self, name: str, node: int) -> Path:
        """Write a file of deploy/cluster/ with names, ports and folders exchanged."""
        text = (FILES / name).read_text("utf-8")
        swapped = {"1": str(node), str(node): "1"}
        text = re.sub(r"\bnode-(\d)", lambda m: f"node-{swapped.get(m[1], m[1])}", text)
        hosts, ports = self.network.host, self._ports
        text = re.sub(r"\bnode-(\d):(\d+)", lambda m: f"{hosts(int(m[1]))}:{ports[m[2]]}", text)
        text = text.replace("127.0.0.1:5000", f"127.0.0.1:{self._ports['5000']}")
        text = text.replace("port 8008", f"port {self._ports['8008']}")
        text = text.replace("/var/lib/etcd/ticketboss", str(self.folder / f"etcd-{node}"))
        text = text.replace("/var/lib/postgresql/15/ticketboss", str(self._data(node)))
        # Not the package's one folder of sockets, and not in the data, which a standby copies.
        sockets = f"parameters: {{unix_socket_directories: {self._sockets(node)}}}"
        text = text.replace("bin_dir:", f"{sockets}\n  bin_dir:")
        file = self.folder / f"{node}-{name}"
        file.write_text(text, "utf-8")
        return file

    def _data(self, node: int) -> Path:
        return self.folder / f"data-{node}"

    def _sockets(self, node: int) -> Path:
        folder = self.folder / f"sockets-{node}"
        folder.mkdir(exist_ok=True)
        os.chown(folder, *self._owner)
        return folder

    def _run(self, name: str, node: int, *command: str, **environment: str) -> None:
        with (self.folder / f"{name}-{node}.log").open("a") as log:
            self._processes[name, node] = subprocess.Popen(
                self.network.command(node, ("setpriv", *self._as_owner, *command)),
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text('utf-8')[-1500:]}" for log in logs)

    def _end(self) -> None:
        for node in NODES:
            for pid in self.pids(node):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self._processes.values():
            process.kill()
            process.wait()

    # --- What there is ----------------------------------------------------------

    def _ask(self, node: int, path: str, body: dict | None = None) -> tuple[int, str]:
        request = urllib.request.Request(
            f"http://{self.network.host(node)}:{self._ports['8008']}{path}",
            data=json.dumps(body).encode() if body else None,
        )
        try:
            with urllib.request.urlopen(request, timeout=2 if body is None else 60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def leader(self) -> int | None:
        return next((node for node in NODES if self._ask(node, "/primary")[0] == 200), None)

    def standby(self) -> int | None:
        """Return the node that every commit waits for."""
        return next((node for node in NODES if self._ask(node, "/sync")[0] == 200), None)

    def is_whole(self) -> bool:
        """Tell whether there is a leader, and two who follow it, one of them at every commit."""
        leader = self.leader()
        if leader is None or self.standby() is None:
            return False
        members = json.loads(self._ask(leader, "/cluster")[1] or "{}").get("members", ())
        return [member["state"] in ("running", "streaming") for member in members] == [True] * 3

    def _sql(self, *statements: str) -> None:
        """Run statements on the leader; psql puts the role's password in."""
        server = f"host={self.network.host(self.leader())} port={self._ports['5432']}"
        password = self._passwords["PATRONI_SUPERUSER_PASSWORD"]
        for statement in statements:
            subprocess.run(
                [
                    *(f"{PROGRAMS}/psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"),
                    *(f"--set=word={self._password}", f"{server} user=postgres dbname=postgres"),
                ],
                input=statement,
                text=True,
                check=True,
                env={"PATH": os.environ["PATH"], "PGPASSWORD": password},
            )

    def dsns(self) -> tuple[str, str]:
        """Return the ways to the database: through HAProxy, and with every host."""
        port = self._ports["5432"]
        hosts = ",".join(f"{self.network.host(node)}:{port}" for node in NODES)
        user = f"postgresql://ticketboss:{self._password}@"
        return (
            f"{user}127.0.0.1:{self._ports['5000']}/ticketboss",
            f"{user}{hosts}/ticketboss?target_session_attrs=read-write",
        )

    def postgresql(self, node: int) -> list[int]:
        """Return the process ids of a node's PostgreSQL, its postmaster first."""
        with contextlib.suppress(OSError, ValueError):
            first = int((self._data(node) / "postmaster.pid").read_text().split()[0])
            children = Path(f"/proc/{first}/task/{first}/children").read_text()
            return [first, *map(int, children.split())]
        return []

    def pids(self, node: int) -> list[int]:
        """Return the process ids of everything that runs on a node."""
        started = (self._processes.get((name, node)) for name in ("patroni", "etcd"))
        mine = [process.pid for process in started if process and process.poll() is None]
        return [*mine, *self.postgresql(node)]

    def signal(self, number: int, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def reap(self, node: int) -> None:
        for name in ("patroni", "etcd"):
            if (process := self._processes.get((name, node))) and process.poll() is None:
                process.wait(10)

    def agent(self, node: int) -> int:
        return self._processes["patroni", node].pid

    def switch_over(self) -> None:
        leader, standby = self.leader(), self.standby()
        body = {"leader": f"node-{leader}", "candidate": f"node-{standby}"}
        status, told = self._ask(leader, "/switchover", body)
        assert status == 200, told


# --- The ways to lose a leader --------------------------------------------------------


def its_postgresql_is_killed(cluster: Cluster, leader: int) -> Iterator[None]:
    cluster.signal(signal.SIGKILL, cluster.postgresql(leader))
    yield


def the_node_is_killed(cluster: Cluster, leader: int) -> Iterator[None]:
    cluster.signal(signal.SIGKILL, cluster.pids(leader))
    cluster.reap(leader)
    yield
    cluster.start_node(leader)


def its_agent_is_killed(cluster: Cluster, leader: int) -> Iterator[None]:
    """Its PostgreSQL lives on, and believes that it is the primary."""
    cluster.signal(signal.SIGKILL, [cluster.agent(leader)])
    yield
    cluster.start_agent(leader)


def the_node_is_frozen_and_thawed(cluster: Cluster, leader: int) -> Iterator[None]:
    pids = cluster.pids(leader)
    cluster.signal(signal.SIGSTOP, pids)
    yield
    cluster.signal(signal.SIGCONT, pids[::-1])


def the_network_is_split_and_healed(cluster: Cluster, leader: int) -> Iterator[None]:
    """It lives on, and hears nobody: neither the others, nor who was connected to it."""
    cluster.network.split(leader)
    yield
    cluster.network.heal(leader)


def it_hands_over_as_planned(cluster: Cluster, leader: int) -> Iterator[None]:
    cluster.switch_over()
    yield


class Loss(NamedTuple):
    happens: Callable[[Cluster, int], Iterator[None]]
    bound: float  # seconds until something is sold again


LOSSES = (
    Loss(its_postgresql_is_killed, 11),
    Loss(the_node_is_killed, 25),
    Loss(its_agent_is_killed, 25),
    Loss(the_node_is_frozen_and_thawed, 25),
    Loss(the_network_is_split_and_healed, 25),
    Loss(it_hands_over_as_planned, 4),
)
HEAD = (
    "| the leader | operations | acknowledged | unknown | violations | reads lost or passed"
    " | gap, HAProxy | gap, all hosts | longest request |\n|---|---|---|---|---|---|---|---|---|"
)


def lose(
    cluster: Cluster, loss: Loss, urls: list[str], seconds: float, folder: Path | None
) -> list[str]:
    """Lose the leader while the checker is at work; return what was not as promised."""
    assert wait_for(cluster.is_whole, 120), cluster.log()
    with asking(urls, seconds) as (records, _):
        time.sleep(STRIKE)
        steps = loss.happens(cluster, cluster.leader())
        next(steps)
        time.sleep(AWAY)
        next(steps, None)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        save(records, folder / f"{loss.happens.__name__}.jsonl")
        for log in cluster.folder.glob("*.log"):
            shutil.copy(log, folder)
    verdict = judge(records, failover=True)
    whole = summary(records)
    gaps = [summary([r for r in records if r.server == n]).longest_gap for n in range(2)]
    name = loss.happens.__name__.replace("_", " ")
    print(
        f"| {name} | {whole.operations:,} | {whole.acknowledged:,} | {whole.unknown:,}"
        f" | {len(verdict.violations)} | {verdict.vanished} | {gaps[0]:.1f} s | {gaps[1]:.1f} s"
        f" | {whole.longest_request:.1f} s |",
        flush=True,
    )
    wrong = [f"{name}: {violation}" for violation in verdict.violations]
    for way, gap in zip(("through HAProxy", "with all hosts"), gaps, strict=True):
        if gap > loss.bound:
            wrong.append(f"{name}: {gap:.1f} s without a change {way}, not {loss.bound} s at most")
    if whole.longest_request > REQUEST_SECONDS:
        wrong.append(f"{name}: a request took {whole.longest_request:.1f} s")
    return wrong


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=70, help="for each loss")
    parser.add_argument("--only", default="", help="those with this word in their name")
    parser.add_argument("--save", type=Path, help="a folder for the histories, and the logs")
    arguments = parser.parse_args()
    missing = [package for program, package in NEEDED.items() if not shutil.which(program)]
    if missing:
        print(f"not installed (Debian: apt install {' '.join(missing)})", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("three nodes run as other users: run as root, who may start them", file=sys.stderr)
        return 2
    wrong = []
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="ticketboss-cluster-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cluster = Cluster(folder, stack)
        cluster.start()
        servers = [stack.enter_context(Server(dsn)) for dsn in cluster.dsns()]
        urls = [f"http://127.0.0.1:{server.port}" for server in servers]
        print(HEAD, flush=True)
        for loss in LOSSES:
            if loss.happens is the_network_is_split_and_healed and isinstance(
                cluster.network, Loopback
            ):
                continue
            if arguments.only in loss.happens.__name__.replace("_", " "):
                wrong += lose(cluster, loss, urls, arguments.seconds, arguments.save)
    for each in wrong:
        print(each, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
