"""How many cores this process may use: `usable_cores`, `thread_count`."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """The cores of this process's affinity, or fewer where its control groups (containers) grant it less time.

    Parts of a core count as one. `root` is where `proc` and `sys` are mounted.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas(root))]))


def thread_count() -> int:
    """The number of threads that `OMP_NUM_THREADS` asks for, at most one per usable core.

    As OpenMP does, ignores values that are no positive number, and takes the first one of a list ("4,2").
    """
    cores, asked = usable_cores(), os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(int(asked) or cores, cores) if asked.isdecimal() else cores


def _quotas(root: Path) -> Iterator[float]:
    """The cores that the control groups of this process are granted, of version 2 or 1; see cgroups(7)."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount, own = root / "sys/fs/cgroup" / controllers, PurePosixPath(group.lstrip("/"))
        for place in (own, *own.parents):  # within a container, the mount may begin at its own group
            folder = mount / place
            quota = _read(folder / "cpu.max").split()
            quota = quota or [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
            if all(value.isdecimal() for value in quota):  # not "max" or -1
                yield int(quota[0]) / int(quota[1])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
