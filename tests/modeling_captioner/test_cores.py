"""`modeling_captioner/cores.py`: affinity, the quotas of containers, and odd values of OMP_NUM_THREADS."""

import os

import pytest

from modeling_captioner.cores import thread_count, usable_cores

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine(folder, group, **files):
    """A `root` in whose `proc` and `sys` the process belongs to `group`; `files` maps paths to their contents."""
    for path, text in ({"proc/self/cgroup": group} | files).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/", {"sys/fs/cgroup/cpu.max": "100000 100000"}, 1),
        ("0::/", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ("0::/", {"sys/fs/cgroup/cpu.max": "110000 100000"}, 2),
        ("0::/", {"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ("0::/pod/app", {"sys/fs/cgroup/pod/cpu.max": "100000 100000", "sys/fs/cgroup/pod/app/cpu.max": "max 1"}, 1),
        ("0::/host/path/unseen/here", {"sys/fs/cgroup/cpu.max": "100000 100000"}, 1),
        (
            "5:memory:/a\n4:cpu,cpuacct:/docker/1\n0::/",
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "70000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (
            "1:cpu:/",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("3:cpuset:/a", {"sys/fs/cgroup/cpuset/a/cpu.max": "100000 100000"}, None),
        ("0::/", {}, None),
    ],
)
def test_a_container_grants_fewer_cores(tmp_path, group, files, quota):
    assert usable_cores(machine(tmp_path, group, **files)) == min(CORES, quota or CORES)


def test_a_machine_without_control_groups(tmp_path):
    assert usable_cores(tmp_path) == CORES


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_affinity_counts(tmp_path):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("asked", "threads"),
    [
        *[(asked, 1) for asked in ("1", " 1 ", "1,4", "01")],
        *[(asked, None) for asked in ("9999", "0", "0,1", "7500m", "-1", "", ",", "1.5", "²", "TRUE", "1 4")],
    ],
)
def test_odd_numbers_of_threads_are_ignored(monkeypatch, asked, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert thread_count() == (threads or usable_cores())
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert thread_count() == usable_cores()
