import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxage.cli import main
from jaxage.data.csv import read_csv
from jaxage.data.funnel import Criteria
from jaxage.data.records import DataError
from jaxage.data.splits import assign_splits
from jaxage.prepare import prepare
from tests.data.mat import FIELDS, write_mat


def many(n: int = 60) -> dict[str, list[Any]]:
    """Two photos of each of n / 2 people, all fit to be kept but the first, whose path leads upwards."""
    paths = [f"00/nm{i // 2:07}_rm{i}_1950-2-3_{1970 + i % 40}.jpg" for i in range(n)]
    return {name: [values[3]] * n for name, values in FIELDS.items()} | {
        "dob": [712258] * n,
        "photo_taken": [1970 + i % 40 for i in range(n)],
        "full_path": ["../../etc/x.jpg", *paths[1:]],
    }


def test_what_is_kept_is_read_back_with_its_splits(tmp_path: Path) -> None:
    write_mat(tmp_path / "imdb.mat", "imdb", many())
    said: list[str] = []
    table = prepare("imdb", tmp_path, Criteria(fraction=1.0), "identity", said.append)
    records = read_csv(table)
    assert len(records) == 59
    assert records.age.tolist() == [20 + i % 40 for i in range(1, 60)]
    undecided = replace(records, split=np.full(len(records), ""))
    assert records.split.tolist() == assign_splits(undecided, "identity", 0).split.tolist()
    manifest = json.loads((tmp_path / "imdb.manifest.json").read_text())
    assert manifest["refused_paths"] == 1
    assert manifest["funnel"][-1] == {"step": "fraction", "kept": 60, "dropped": 0}
    assert sum(manifest["splits"].values()) == 59
    assert manifest["leakage"]["test_images_seen"] == 0
    assert "1 unsafe paths refused" in said[-2]


def test_nothing_kept_says_what_to_do(tmp_path: Path) -> None:
    write_mat(tmp_path / "imdb.mat", "imdb", many())
    with pytest.raises(DataError, match="lower --min-face-score"):
        prepare("imdb", tmp_path, Criteria(min_face_score=99.0), say=lambda _: None)
    assert not (tmp_path / "imdb.csv").exists()


def test_the_command_on_the_real_wiki(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "JAXAGE_TEST_DATA" not in os.environ:
        pytest.skip("set JAXAGE_TEST_DATA to the folder with wiki.mat")
    shutil.copy(Path(os.environ["JAXAGE_TEST_DATA"], "wiki.mat"), tmp_path)
    main(["prepare", "wiki-crop", "--root", str(tmp_path), "--fraction", "1", "--min-face-score", "1"])
    assert "38,874" in capsys.readouterr().out
    assert len(read_csv(tmp_path / "wiki.csv")) == 38874
