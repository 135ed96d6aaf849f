import os
from pathlib import Path

import pytest

from jaxage.utils.memory import host_memory

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
V2, V1 = "0::/user/job\n", "12:cpu,cpuacct:/other\n9:hugetlb,memory:/docker/job\n0::/\n"


def tree(root: Path, groups: str, limits: dict[str, str]) -> Path:
    """A false root: what `/proc/self/cgroup` says, and files below `/sys/fs/cgroup`."""
    for path, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": text for name, text in limits.items()},
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        (V2, {"user/job/memory.max": "5000\n"}, 5000),
        (V2, {"user/job/memory.max": "max\n", "user/memory.max": "4000\n"}, 4000),
        (V2, {"user/job/memory.max": "5000\n", "user/memory.max": "4000\n"}, 4000),
        (V2, {"memory.max": "3000\n"}, 3000),
        (V2, {"user/other/memory.max": "3000\n"}, PHYSICAL),
        (V2, {"user/job/memory.max": "max\n"}, PHYSICAL),
        (V2, {"user/job/memory.max": f"{2**62}\n"}, PHYSICAL),
        (V2, {"user/job/memory.max": "0\n", "user/memory.max": "no number\n"}, PHYSICAL),
        ("0::/../other\n", {"memory.max": "3000\n", "../other/memory.max": "2000\n"}, 3000),
        (V1, {"memory/docker/job/memory.limit_in_bytes": "6000\n"}, 6000),
        (V1, {"memory/memory.limit_in_bytes": "7000\n"}, 7000),
        (V1, {"memory/docker/job/memory.limit_in_bytes": "9223372036854771712\n"}, PHYSICAL),
        (V1, {"memory/docker/job/memory.limit_in_bytes": "6000\n", "memory.max": "2000\n"}, 2000),
        (V1, {"cpu/other/memory.limit_in_bytes": "6000\n"}, PHYSICAL),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, groups: str, limits: dict[str, str], expected: int) -> None:
    assert host_memory(tree(tmp_path, groups, limits)) == expected


def test_without_control_groups_and_without_sysconf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_memory(tmp_path) == PHYSICAL
    monkeypatch.delattr("os.sysconf")
    assert host_memory(tmp_path) == 4 * 2**30
    assert host_memory(tree(tmp_path, V2, {"user/job/memory.max": "5000\n"})) == 5000


def test_this_machine_has_some_memory() -> None:
    assert 2**20 < host_memory() <= PHYSICAL
