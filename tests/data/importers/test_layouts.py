import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxage.commands.prepare import prepare
from jaxage.data.importers.appa_real import AppaRealOptions
from jaxage.data.importers.imdb_clean import ImdbCleanOptions
from jaxage.data.importers.labels import LabelsOptions
from jaxage.data.importers.table import IMPORTERS
from jaxage.data.importers.utkface import parse_utkface
from jaxage.data.prepare.options import PrepareOptions
from jaxage.data.prepared import open_prepared, read_manifest
from jaxage.data.records import DataError, Records
from tests.data.importers.layouts import (
    IMDB_CROP,
    LAYOUTS,
    WIKI_CROP,
    appa_real,
    as_folder,
    as_tar_gz,
    as_zip,
    imdb_clean,
    tree,
)

Row = tuple[float, str, str, str]
FORMS = {"folder": as_folder, "tar.gz": as_tar_gz, "zip": as_zip}


def rows_of(records: Records) -> dict[str, Row]:
    columns = records.age, records.identity, records.gender, records.split
    return dict(zip(records.path.tolist(), zip(*(column.tolist() for column in columns), strict=True), strict=True))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_labels_in_names(name: str, form: Callable[[Path], Path], tmp_path: Path) -> None:
    source = form(tree(tmp_path / "as downloaded", list(LAYOUTS[name])))
    expected = {path: row for path, row in LAYOUTS[name].items() if row is not None}
    prefix = "" if source.is_dir() else "as downloaded/"
    with IMPORTERS[name].open(LabelsOptions(source), 0) as faces:
        assert rows_of(faces.records) == {prefix + path: row for path, row in expected.items()}
        assert all(faces.read(path) for path in faces.records.path.tolist())
        assert faces.folder == tmp_path
        assert [step.kept for step in faces.steps][::2] == [len(LAYOUTS[name]), len(expected)]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("age", ["real", "apparent"])
def test_appa_real(age: str, form: Callable[[Path], Path], tmp_path: Path) -> None:
    source = form(appa_real(tmp_path / "data"))
    with IMPORTERS["appa-real"].open(AppaRealOptions(source, age), 0) as faces:  # type: ignore[arg-type]
        rows = rows_of(faces.records)
        path = next(path for path in rows if path.endswith("train/000001.jpg_face.jpg"))
        assert rows[path] == (pytest.approx(51 if age == "real" else 55.1), "", "", "train")
        assert faces.about["apparent_ages"][path] == [55.1, 5.2, 40]
        assert sorted(row[3] for row in rows.values()) == ["test", "train", "train", "validation"]
        assert all(faces.read(path) for path in rows)


@pytest.mark.parametrize("packed", [False, True])
def test_imdb_clean(packed: bool, tmp_path: Path) -> None:
    source = imdb_clean(tmp_path / "data")
    if packed:
        as_tar_gz(source / "imdb_crop").rename(source / "imdb_crop.tar")
        (source / "imdb_crop").rename(tmp_path / "elsewhere")
    with IMPORTERS["imdb-clean"].open(ImdbCleanOptions(source), 0) as faces:
        rows = rows_of(faces.records)
        path = ("imdb_crop/" if packed else "") + "01/nm0000001_rm2_1899-5-10_1968.jpg"
        assert rows[path] == (69, "nm0000001", "male", "train")
        assert [step.dropped for step in faces.steps] == [0, 1, 0]
        assert sorted(row[3] for row in rows.values()) == ["test", "train", "train", "validation"]
        assert all(faces.read(path) for path in rows)


def source_of(name: str, folder: Path) -> Path:
    makers = {"appa-real": appa_real, "imdb-clean": imdb_clean}
    crops = {"imdb-crop": IMDB_CROP, "wiki-crop": WIKI_CROP}
    return makers[name](folder) if name in makers else tree(folder, list(crops.get(name) or LAYOUTS[name]))


@pytest.mark.parametrize("name", sorted(set(IMPORTERS) - {"csv"}))
def test_the_importer_of_another_dataset_names_the_right_one(name: str, tmp_path: Path) -> None:
    source = source_of(name, tmp_path / "data")
    for other in set(IMPORTERS) - {"csv", name}:
        importer = IMPORTERS[other]
        field = "root" if other in ("imdb-crop", "wiki-crop") else "source"
        with pytest.raises(DataError, match=f"its files are named as those of {name}: prepare {name}"):
            prepare(importer, importer.options(**{field: source}), PrepareOptions(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("paths", "name", "message"),
    [
        (["101/a.jpg", "116/b.jpg"], "folder", "the criterion 'age' drops all records: ages must lie in 0-100"),
        (["a.jpg"], "agedb", r"none of its 1 files is named as agedb names them .*35_f.jpg.$"),
        (["train/3/a.jpg", "test/4/b.jpg"], "folder", "has folders for test and train, but .* make all three, or none"),
        (["train/3/a.jpg", "4/b.jpg"], "folder", "has folders for train, but not every image lies in one of"),
        ([], "utkface", "none of its 0 files"),
    ],
)
def test_what_cannot_be_prepared_is_explained(paths: list[str], name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    source = tree(tmp_path / "data", paths)
    with pytest.raises(DataError, match=message):
        prepare(IMPORTERS[name], LabelsOptions(source), PrepareOptions(tmp_path / "out"))


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere': there is no such file or folder"):
        prepare(IMPORTERS["utkface"], LabelsOptions(tmp_path / "nowhere"), PrepareOptions())


@pytest.mark.parametrize(
    "path", ["10000217_1981-05-05_2009.jpg", "30.jpg", "30_1.jpg", "1_2_3.jpg", "a30_1_2_201701161745.jpg"]
)
def test_other_names_are_not_utkface(path: str) -> None:
    assert parse_utkface(path) is None


def test_names_sorted_into_age_folders(tmp_path: Path) -> None:
    paths = [f"{split}/30/{i}_1_0_20170116174525125.jpg" for i, split in enumerate(("train", "val", "test"))]
    with IMPORTERS["folder"].open(LabelsOptions(tree(tmp_path, paths)), 0) as faces:
        assert faces.records.age.tolist() == [30, 30, 30]


def test_names_that_are_no_text_are_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"30_1_0_20170116174525125\xe9.jpg")
    try:
        tree(tmp_path / "data", ["31_1_0_20170116174525125.jpg", name])
    except OSError:
        pytest.skip("the file system takes UTF-8 names alone")
    with IMPORTERS["utkface"].open(LabelsOptions(tmp_path / "data"), 0) as faces:
        assert faces.records.age.tolist() == [31]
        assert faces.about["other_names"] == [r"30_1_0_20170116174525125\udce9.jpg"]


def test_prepared_from_names_to_a_dataset(tmp_path: Path) -> None:
    paths = [f"UTKFace/{20 + i}_{i % 2}_{i % 3}_201701161745{i:05}.jpg.chip.jpg" for i in range(30)]
    source = as_zip(tree(tmp_path / "UTKFace", paths))
    out = prepare(IMPORTERS["utkface"], LabelsOptions(source), PrepareOptions())
    assert out == tmp_path / "utkface-prepared"
    prepared = open_prepared(out)
    assert sorted(prepared.records.age.tolist()) == list(range(20, 50))
    assert set(prepared.records.labels["ethnicity"].tolist()) == {"White", "Black", "Asian"}
    assert read_manifest(out)["funnel"][1] == {"step": "name", "kept": 30, "dropped": 0}


def test_the_real_names_of_utkface() -> None:
    if "JAXAGE_TEST_DATA" not in os.environ:
        pytest.skip("set JAXAGE_TEST_DATA to the folder with utkface.csv and utkface.tar")
    data = Path(os.environ["JAXAGE_TEST_DATA"])
    with (data / "utkface.csv").open(newline="") as file:
        expected = {row["path"]: (float(row["age"]), row["gender"]) for row in csv.DictReader(file)}
    with IMPORTERS["utkface"].open(LabelsOptions(data / "utkface.tar"), 0) as faces:
        rows = rows_of(faces.records)
    assert {path: (row[0], row[2]) for path, row in rows.items()} == expected
