"""What `/proc` tells about this machine and the processes on it."""

import contextlib
import os
import platform
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def describe() -> dict:
    """Return the machine's size, for the head of the report."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * PAGE / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its children, living and ended."""
    fields = _stat(pid)
    ended = fields[13] + fields[14]
    return (_own(fields) * TICKS + ended) / TICKS + sum(
        _own(stat) for child in children(pid) if (stat := _stat(child))
    )


def busy_seconds() -> float:
    """Return the processor time of all on this machine, and what its host kept from it."""
    total = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, total.split()[1:])
    return (user + nice + system + irq + softirq + steal) / TICKS


def resident(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def parent(pid: int) -> int:
    return _stat(pid)[1]


def name(pid: int) -> str | None:
    """Return the name of a process's program; None if there is no such process here."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return None


def _own(fields: list) -> float:
    return (fields[11] + fields[12]) / TICKS if fields else 0.0


def _stat(pid: int) -> list:
    """Return the fields of proc_pid_stat(5) from the state on; empty once it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    state, *numbers = text.rpartition(")")[2].split()
    return [state, *map(int, numbers)]


def _first(path: str, name: str) -> str | None:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None
