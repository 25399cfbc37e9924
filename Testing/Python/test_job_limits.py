"""What a container or a cluster's job leaves of the memory, as cgroups and SLURM's environment tell it."""

from pathlib import Path

import pytest

from DiffuGTSLib.planning.job_limits import job_limits


def a_group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("memory_", "memory.")).write_text(str(content))


def in_groups(root: Path, *lines: str) -> None:
    a_group(root / "proc" / "self", cgroup="\n".join(lines) + "\n")


def test_a_container_has_what_others_leave_in_it(tmp_path: Path) -> None:
    """2 GB, of which others hold 1 GB, and copies of files 0.5 GB that are given back."""
    own, there = 3 * 10**8, tmp_path / "sys" / "fs" / "cgroup"
    stat = f"anon 1\ninactive_file {5 * 10**8}\n"
    in_groups(tmp_path, "0::/")
    a_group(there, memory_max=2 * 10**9 + own, memory_current=int(1.5e9) + own, memory_stat=stat)
    assert list(job_limits(own, tmp_path, {})) == [(1e9 + own, "the limit of its container or job (cgroup)")]
    a_group(there, memory_max="max")
    assert list(job_limits(own, tmp_path, {})) == []


@pytest.mark.parametrize("version", [1, 2])
def test_the_least_limit_on_the_way_to_the_root_counts(tmp_path: Path, version: int) -> None:
    """As on a cluster: the task has no limit of its own, its job has one of 4 GB, the slice above one of 64."""
    there = tmp_path / "sys" / "fs" / "cgroup"
    limit, used = (
        ("memory_max", "memory_current") if version == 2 else ("memory_limit_in_bytes", "memory_usage_in_bytes")
    )
    if version == 1:
        there /= "memory"
        in_groups(tmp_path, "9:name=systemd:/", "4:cpu,memory:/slurm/job_7/task_0", "0::/elsewhere")
    else:
        in_groups(tmp_path, "0::/slurm/job_7/task_0")
    a_group(there / "slurm", **{limit: 64 * 10**9, used: 50 * 10**9})
    a_group(there / "slurm" / "job_7", **{limit: 4 * 10**9, used: 10**9})
    a_group(there / "slurm" / "job_7" / "task_0", **{limit: "max" if version == 2 else 2**63 - 4096, used: 10**9})
    assert min(job_limits(1e9, tmp_path, {}))[0] == 4e9


def test_of_a_group_of_groups_the_copies_of_files_in_all_of_them_are_given_back(tmp_path: Path) -> None:
    """Version 1 tells both: those of the group alone, and those of all below it."""
    there = tmp_path / "sys" / "fs" / "cgroup" / "memory"
    in_groups(tmp_path, "4:memory:/")
    stat = f"inactive_file 1\ntotal_inactive_file {5 * 10**8}\n"
    a_group(there, memory_limit_in_bytes=2 * 10**9, memory_usage_in_bytes=int(1.5e9), memory_stat=stat)
    assert [bytes_ for bytes_, _ in job_limits(0, tmp_path, {})] == [1e9]


def test_groups_that_only_the_computer_outside_can_name_leave_the_container_s_own(tmp_path: Path) -> None:
    in_groups(tmp_path, "4:memory:/docker/0123")
    a_group(tmp_path / "sys" / "fs" / "cgroup" / "memory", memory_limit_in_bytes=10**9)
    assert [bytes_ for bytes_, _ in job_limits(0, tmp_path, {})] == [1e9]


@pytest.mark.parametrize(
    ("environment", "mib"),
    [
        ({"SLURM_MEM_PER_NODE": "4096"}, [4096]),
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "8"}, [8192]),
        ({"SLURM_MEM_PER_NODE": "0"}, []),
        ({"SLURM_MEM_PER_NODE": "much"}, []),
        ({}, []),
    ],
)
def test_a_job_of_slurm_has_what_it_was_given(tmp_path: Path, environment: dict[str, str], mib: list[int]) -> None:
    assert [bytes_ / 2**20 for bytes_, _ in job_limits(0, tmp_path, environment)] == mib
