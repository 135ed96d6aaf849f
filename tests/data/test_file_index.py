import time
from pathlib import Path

import pytest

from jaxage.data.file_index import Stamp, add_to_index, read_index


def test_what_was_added_is_read(tmp_path: Path) -> None:
    file = tmp_path / "new" / "index.sqlite"
    assert read_index(file) == {}
    add_to_index(file, [("a.jpg", Stamp(3, 5), "x"), ("b \u00e9.jpg", Stamp(4, 6), "y")])
    add_to_index(file, [("a.jpg", Stamp(3, 7), "z")])
    assert read_index(file) == {"a.jpg": (Stamp(3, 7), "z"), "b \u00e9.jpg": (Stamp(4, 6), "y")}


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    add_to_index(tmp_path / "index.sqlite", [("a.jpg", Stamp(3, time.time_ns()), "x")])
    assert read_index(tmp_path / "index.sqlite") == {}


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 100])
def test_a_damaged_index_is_made_anew(damage: bytes, tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    file.write_bytes(damage)
    assert read_index(file) == {}
    add_to_index(file, [("a.jpg", Stamp(3, 5), "x")])
    assert read_index(file) == {"a.jpg": (Stamp(3, 5), "x")}


def test_a_folder_that_cannot_be_written_is_no_loss(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    add_to_index(tmp_path / "file" / "index.sqlite", [("a.jpg", Stamp(3, 5), "x")])
