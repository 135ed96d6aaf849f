import errno
import json
import multiprocessing
import os
import time
import warnings
from pathlib import Path

import pytest

from jaxage.types import UserError
from jaxage.utils.files import (
    LOCK,
    atomic_write,
    explain_os_error,
    lock_file,
    lock_folder,
    name_errors,
    rename_folder,
    reserve_space,
    write_json,
    write_text,
)

BUSY = UserError("busy")


def test_one_at_a_time_and_again_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with lock_folder(folder, BUSY):
        with pytest.raises(UserError, match="busy"), lock_folder(folder, BUSY):
            pass
        assert (folder / LOCK).exists(), "who is refused removes nothing"
        with lock_folder(tmp_path / "other", BUSY):
            pass
        (folder / "work").write_text("")
    with lock_folder(folder, BUSY), pytest.raises(UserError, match="busy"), lock_folder(folder, BUSY):
        pass
    assert (folder / "work").exists()


def test_a_name_that_cannot_be_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"), lock_folder(tmp_path / "runs" / ("a" * 300), BUSY):
        pass
    assert not list(tmp_path.iterdir())


def test_without_file_locks_the_file_is_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    with warnings.catch_warnings(action="ignore"):
        for _ in range(2):
            again = lock_folder(tmp_path / "run", BUSY)
            with lock_folder(tmp_path / "run", BUSY), pytest.raises(UserError, match="busy"), again:
                pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_refuses_locks_is_named(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    for lock in (lock_folder(tmp_path / "run", BUSY), lock_file(tmp_path / "lock")):
        with pytest.raises(UserError, match=r"its file system has no locks .*: choose a folder on another one"), lock:
            pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "make room and start again"),
        (errno.EDQUOT, "make room and start again"),
        (errno.EROFS, "choose a folder that you may write to"),
        (errno.EACCES, "choose a folder that you may write to"),
    ],
)
def test_an_error_of_the_system_names_the_file_and_a_remedy(
    code: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXAGE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(OSError, match=os.strerror(code)) as caught, name_errors(tmp_path / "cache" / "a b\n"):
        raise OSError(code, os.strerror(code))
    message = explain_os_error(caught.value)
    assert message.startswith(repr(str(tmp_path / "cache" / "a b\n")))
    assert remedy in message
    assert message.endswith("(JAXAGE_CACHE names another cache folder)")
    assert "JAXAGE_CACHE" not in explain_os_error(OSError(code, os.strerror(code), str(tmp_path / "run")))


def test_an_unused_folder_vanishes_with_what_was_made_for_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    with lock_folder(mine / "runs" / "one", BUSY):
        pass
    assert list(tmp_path.rglob("*")) == [mine]
    for _ in range(2):
        with lock_folder(mine, BUSY):
            pass
        assert list(tmp_path.rglob("*")) == [mine], "a folder that was there stays"


def _work(folder: Path, queue: "multiprocessing.Queue[str]") -> None:
    """Hold the folder for a moment, leave nothing, and say whether somebody else was in it."""
    for _ in range(20):
        try:
            with lock_folder(folder, BUSY):
                mark = folder / "mark"
                mark.touch(exist_ok=False)
                time.sleep(0.001)
                mark.unlink()
        except UserError:
            queue.put("busy")
        except OSError as error:
            queue.put(f"two at once: {error!r}")
        else:
            queue.put("held")


def test_ten_processes_never_share_a_folder_that_comes_and_goes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[str] = context.Queue()
    processes = [context.Process(target=_work, args=(tmp_path / "a" / "b", queue)) for _ in range(10)]
    for process in processes:
        process.start()
    said = [queue.get(timeout=300) for _ in range(200)]
    for process in processes:
        process.join()
    assert set(said) <= {"busy", "held"}
    assert "held" in said
    assert not (tmp_path / "a" / "b" / "mark").exists()


def test_writing_fails_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.write("no bytes")  # type: ignore[arg-type]
    assert json.loads(path.read_text()) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("posix", [True, False])
def test_space_is_reserved_with_and_without_posix(posix: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not posix:
        monkeypatch.delattr("os.posix_fallocate", raising=False)
    with (tmp_path / "file").open("xb") as file:
        reserve_space(file, 1000)
    assert (tmp_path / "file").stat().st_size == 1000


def test_a_finished_folder_does_not_replace_another(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert not rename_folder(tmp_path / "a", tmp_path / "b")
    assert rename_folder(tmp_path / "a", tmp_path / "c")
    assert {path.parent.name: path.read_text() for path in tmp_path.rglob("file")} == {"b": "b", "c": "a"}
