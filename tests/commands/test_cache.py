import os
import time
from pathlib import Path

import pytest

from jaxage.cli import main
from jaxage.commands.cache import cache, list_cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size, days in (("decoded/old/images.npy", 3000, 40), ("decoded/new/images.npy", 500, 1)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
        for path in (tmp_path / name, (tmp_path / name).parent):
            os.utime(path, (time.time() - days * 86400,) * 2)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "file.pth").write_bytes(b"kept")
    return tmp_path


def test_it_says_what_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAXAGE_CACHE", str(folder))
    main(["cache"])
    said = capsys.readouterr().out
    assert "2 entries  decoded images" in said
    assert "0 entries  features" in said
    assert [(entry.path.name, entry.nbytes) for entry in list_cache(folder)] == [("new", 500), ("old", 3000)]


def test_what_was_not_used_is_removed(folder: Path) -> None:
    said: list[str] = []
    kept = cache(folder, unused_days=30.0, log=said.append)
    assert [entry.path.name for entry in kept] == ["new"]
    assert "removed 1 entries (0.00 GiB) that were not used for 30 days" in said[0]
    assert not (folder / "decoded" / "old").exists()
    assert (folder / "weights" / "file.pth").exists()
