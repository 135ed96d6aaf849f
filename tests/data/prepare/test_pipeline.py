"""From trees, tars and CSV files with every trouble planted in them to datasets that load, or an error saying why."""

import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from filelock import FileLock
from PIL import Image

import jaxage.data.prepare.pipeline
from jaxage.data.dataset import LoadOptions, load_dataset
from jaxage.data.decode import decode_image
from jaxage.data.importers.csv_file import CSV, CsvOptions, read_csv
from jaxage.data.importers.filters import Criteria
from jaxage.data.importers.imdb_crops import IMDB_CROP, CropsOptions
from jaxage.data.importers.importer import FilterStep, ImportedFaces, Importer
from jaxage.data.prepare.checked import CheckedFaces
from jaxage.data.prepare.options import PrepareOptions
from jaxage.data.prepare.output import unfinished_folder
from jaxage.data.prepare.pipeline import prepare_dataset
from jaxage.data.prepare.verify import InvalidImage, ValidImage
from jaxage.data.prepared import open_prepared
from jaxage.data.records import DataError, make_records
from jaxage.data.splits import leakage
from jaxage.data.synthetic.imdb_layout import write_tree
from jaxage.types import Log
from tests.crops import IMAGE_TRAPS, TRAPS, photos
from tests.faces import write_faces

FACES = 60
ALL = Criteria(fraction=1.0)
LENIENT = PrepareOptions(max_bad=0.3)


def quiet(_: str) -> None:
    pass


def prepare_tree(root: Path, options: PrepareOptions, log: Log = quiet, metadata_only: bool = False) -> Path:
    return prepare_dataset(IMDB_CROP, CropsOptions(root, ALL, metadata_only), options, log=log)


def prepare_csv(file: Path, options: PrepareOptions) -> Path:
    return prepare_dataset(CSV, CsvOptions(file), options, log=quiet)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    write_tree(folder / "imdb_crop", "imdb", photos(write_faces(folder / "faces", FACES)))
    return folder / "imdb_crop"


@pytest.fixture(scope="module")
def out(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "imdb"
    return prepare_tree(tree, replace(LENIENT, out=folder, split="identity"))


def manifest(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return value


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    """All files but those that tell where the source was."""
    about = ("manifest.json", "metadata.json")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in about}


def test_every_trap_is_counted_at_its_step(out: Path) -> None:
    about = manifest(out)
    dropped = {step["step"]: step["dropped"] for step in about["funnel"] + about["images"]}
    assert dropped == {"records": 0, **TRAPS, "fraction": 0, **IMAGE_TRAPS}
    assert about["funnel"][0]["kept"] == FACES + sum(TRAPS.values()) + sum(IMAGE_TRAPS.values())
    assert about["images"][-1]["kept"] == FACES
    assert sum(about["splits"].values()) == FACES
    assert about["age_formula"] == "midyear"
    assert about["split"] == "identity"
    assert about["leakage"]["seen_share"] == 0
    assert about["settings"]["min_face_score"] == 3.5


def test_what_is_left_out_is_listed_with_its_reason(out: Path) -> None:
    rows = lines(out / "quarantine.csv")
    assert len(rows) == sum(IMAGE_TRAPS.values())
    reasons = " ".join(row["reason"] for row in rows)
    for word in ("missing", "blank", "truncated", "not an image", "empty file", "too small", "a copy of", "the ages"):
        assert word in reasons
    assert "../x.jpg" in {row["path"] for row in rows}


def test_tfds_reads_it_without_tensorflow(out: Path, tree: Path) -> None:
    builder = tfds.builder_from_directory(out)
    assert "Rothe" in builder.info.citation
    assert "research" in builder.info.redistribution_info.license
    assert builder.info.metadata["funnel"] == manifest(out)["funnel"]
    assert builder.info.metadata["splits"] == {name: split.num_examples for name, split in builder.info.splits.items()}
    rows = {row["path"]: row for row in lines(out / "faces.csv")}
    seen = 0
    for split in ("train", "validation", "test"):
        encoded = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for example, raw in zip(builder.as_data_source(split), encoded, strict=True):
            row = rows[example["path"].decode()]
            assert raw["image"] == (tree / row["path"]).read_bytes()
            assert example["image"].shape == (48, 48, 3)
            assert (split, float(row["age"])) == (row["split"], example["age"])
            assert example["identity"].decode() == row["identity"]
            assert builder.info.features["gender"].int2str(example["gender"]) == (row["gender"] or "unknown")
            assert example["face_score"] == 5.0
            seen += 1
    assert seen == FACES
    assert "tensorflow" not in sys.modules


def test_training_reads_the_same_pixels(out: Path, tree: Path, tmp_path: Path) -> None:
    dataset = load_dataset(out, 40, cache=tmp_path)
    assert (dataset.name, dataset.split, len(dataset.records)) == ("imdb_crop", "identity", FACES)
    expected = [decode_image((tree / path).read_bytes(), 40) for path in dataset.records.path.tolist()]
    np.testing.assert_array_equal(dataset.images, expected)
    assert set(dataset.records.age.tolist()) == {float(row["age"]) for row in lines(out / "faces.csv")}


def test_a_second_start_reads_no_image(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dataset(out, 40, cache=tmp_path)
    monkeypatch.setattr("jaxage.data.image_cache.decode_image", lambda *_, **__: pytest.fail("decoded"))
    again = load_dataset(out, 40, cache=tmp_path)
    assert again.sha256 == first.sha256


def test_what_is_added_before_publishing_appears_with_the_dataset(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def add(folder: Path, faces: CheckedFaces) -> None:
        assert not out.exists()
        assert len(faces.records) == FACES
        (folder / "added.txt").write_text("more")

    prepare_dataset(IMDB_CROP, CropsOptions(tree, ALL), replace(LENIENT, out=out), add, quiet)
    assert (out / "added.txt").read_text() == "more"

    def fail(folder: Path, faces: CheckedFaces) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(IMDB_CROP, CropsOptions(tree, ALL), replace(LENIENT, out=tmp_path / "none"), fail, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@dataclass(frozen=True)
class NoiseOptions:
    """Noise, for tests."""

    count: int = 20
    """How many images."""


@contextmanager
def open_noise(source: NoiseOptions, seed: int) -> Iterator[ImportedFaces]:
    rng = np.random.default_rng(seed)
    images = {f"{i}.png": png(rng.integers(0, 256, (40, 40, 3), np.uint8)) for i in range(source.count)}
    records = make_records(list(images), [float(i) for i in range(source.count)])
    yield ImportedFaces(
        name="noise",
        folder=Path("nowhere"),
        records=records,
        face_score=np.full(source.count, np.nan, np.float32),
        read=images.__getitem__,
        steps=[FilterStep("records", source.count, 0)],
        about={"source": "noise", "source_sha256": "0", "age_formula": "given"},
        settings={"count": source.count},
    )


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_an_importer_of_ones_own(tmp_path: Path) -> None:
    importer = Importer("noise", "Noise.", NoiseOptions, open_noise, tfds_name="noise", citation="@misc{noise}")
    out = prepare_dataset(importer, NoiseOptions(30), PrepareOptions(tmp_path / "out"), log=quiet)
    assert manifest(out)["settings"]["count"] == 30
    info = tfds.builder_from_directory(out).info
    assert (info.name, info.citation, info.redistribution_info.license) == ("noise", "@misc{noise}", importer.terms)
    assert load_dataset(out, 32, cache=tmp_path / "cache").images.shape == (30, 32, 32, 3)
    with pytest.raises(DataError, match="another settings"):
        prepare_dataset(importer, NoiseOptions(31), PrepareOptions(out), log=quiet)


def test_the_same_from_a_tar_that_stays_packed(tree: Path, out: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "imdb_crop.tar", "w") as tar:
        tar.add(tree, "imdb_crop")
    options = replace(LENIENT, split="identity")
    made = prepare_tree(tmp_path, options)
    assert made == tmp_path / "imdb_crop-prepared"
    assert contents(made) == contents(out)
    assert manifest(made)["source_sha256"] == manifest(out)["source_sha256"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imdb_crop-prepared", "imdb_crop.tar"]


def test_metadata_alone_and_then_all(tree: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = replace(LENIENT, out=tmp_path / "out")
    prepare_tree(tree / "imdb.mat", options, metadata_only=True, log=said.append)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]
    names = [line[:12].strip() for line in said[0].splitlines()[1:]]
    assert names == ["records", "face", "single face", "face score", "age", "fraction"]
    assert sum(manifest(tmp_path / "out")["splits"].values()) == manifest(tmp_path / "out")["funnel"][-1]["kept"]
    with pytest.raises(DataError, match="only with its metadata"):
        load_dataset(tmp_path / "out", 40, cache=tmp_path / "cache")
    prepare_tree(tree, options)
    assert len(load_dataset(tmp_path / "out", 40, cache=tmp_path / "cache").records) == FACES


def test_too_many_bad_images_stop_and_are_all_listed(tree: Path, tmp_path: Path) -> None:
    options = PrepareOptions(out=tmp_path / "out", max_bad=0.05)
    with pytest.raises(DataError, match=r"21 of 87 images .*max_bad 0\.05") as error:
        prepare_tree(tree, options)
    assert str(tmp_path / "out" / "quarantine.csv") in str(error.value)
    assert len(lines(tmp_path / "out" / "quarantine.csv")) == sum(IMAGE_TRAPS.values())
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
        load_dataset(tmp_path / "out", 40, cache=tmp_path / "cache")
    prepare_tree(tree, replace(options, max_bad=0.3))
    assert manifest(tmp_path / "out")["images"][-1]["kept"] == FACES


def test_what_is_there_is_not_made_again_nor_overwritten(tree: Path, out: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = replace(LENIENT, out=out, split="identity")
    before = contents(out)
    prepare_tree(tree, options, log=said.append)
    assert "prepared already" in said[0]
    with pytest.raises(DataError, match="another settings"):
        prepare_tree(tree, replace(options, seed=1))
    assert contents(out) == before
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(DataError, match="not empty"):
        prepare_tree(tree, replace(options, out=tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "dear"


def test_counting_harms_nothing_that_is_there(tree: Path, out: Path, tmp_path: Path) -> None:
    before = contents(out), manifest(out)
    with pytest.raises(DataError, match="another settings"):
        prepare_tree(tree, replace(LENIENT, out=out, seed=9), metadata_only=True)
    assert (contents(out), manifest(out)) == before


def test_one_that_was_finished_meanwhile_is_kept(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(LENIENT, out=tmp_path / "out")

    @contextmanager
    def late(out: Path) -> Iterator[Path]:
        monkeypatch.setattr(jaxage.data.prepare.pipeline, "unfinished_folder", unfinished_folder)
        prepare_tree(tree, options)
        with unfinished_folder(out) as work:
            yield work

    monkeypatch.setattr(jaxage.data.prepare.pipeline, "unfinished_folder", late)
    said: list[str] = []
    prepare_tree(tree, options, said.append)
    assert "prepared already" in said[-1]
    assert len(open_prepared(tmp_path / "out").records) == FACES


def test_a_link_and_the_folder_one_is_in_may_be_the_place(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert prepare_tree(tree, replace(LENIENT, out=tmp_path / "link")) == tmp_path / "real"
    assert len(open_prepared(tmp_path / "link").records) == FACES
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    prepare_tree(tree, replace(LENIENT, out=Path()))
    assert len(open_prepared(tmp_path / "here").records) == FACES


def test_a_random_folder_is_not_taken_for_one_divided_by_people(tree: Path, tmp_path: Path) -> None:
    """Asked for, it is divided anew, and the images are the same."""
    prepare_tree(tree, replace(LENIENT, out=tmp_path / "out"))
    kept = load_dataset(tmp_path / "out", 40, cache=tmp_path / "cache")
    same = load_dataset(tmp_path / "out", 40, cache=tmp_path / "cache", options=LoadOptions("random", 9))
    anew = load_dataset(tmp_path / "out", 40, cache=tmp_path / "cache", options=LoadOptions("identity"))
    assert (kept.split, same.split, anew.split) == ("random", "random", "identity")
    assert (kept.records.split == same.records.split).all()
    assert leakage(kept.records)["test_images_seen"] > 0 == leakage(anew.records)["test_images_seen"]
    assert (kept.records.path == anew.records.path).all()
    np.testing.assert_array_equal(kept.images, anew.images)
    assert kept.sha256 == same.sha256 != anew.sha256


def test_the_second_at_once_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    with FileLock(tmp_path / ".out.partial" / ".lock"), pytest.raises(DataError, match="by another process"):
        prepare_tree(tree, replace(LENIENT, out=tmp_path / "out"))


def test_a_file_that_changes_meanwhile_leaves_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    verify_images = jaxage.data.prepare.pipeline.verify_images

    def meddling(*arguments: Any) -> list[ValidImage | InvalidImage]:
        findings = verify_images(*arguments)
        (tmp_path / "tree" / arguments[1][0]).write_bytes(b"other")
        return findings

    monkeypatch.setattr(jaxage.data.prepare.pipeline, "verify_images", meddling)
    with pytest.raises(DataError, match="has changed since it was checked"):
        prepare_tree(tmp_path / "tree", replace(LENIENT, out=tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_csv_keeps_its_splits_and_shows_their_leaks(tmp_path: Path) -> None:
    table = write_faces(tmp_path, n=12)
    rows = lines(table)
    splits = ["train", "train", "validation", "test"] * 3  # four photos of each person
    genders = ["female", "M", ""] * 4
    table.write_text(
        "path,age,identity,split,gender,camera\n"
        + "".join(
            f"{row['path']},{row['age']},{row['identity']},{split},{gender},{split[0]}\n"
            for row, split, gender in zip(rows, splits, genders, strict=True)
        )
    )
    made = prepare_csv(table, PrepareOptions())
    assert made == tmp_path / "faces-prepared"
    about = manifest(made)
    assert about["splits"] == {"train": 6, "validation": 3, "test": 3}
    assert (about["split"], about["leakage"]["seen_share"]) == ("given", 1.0)
    assert [row["gender"] for row in lines(made / "faces.csv")] == ["female", "male", ""] * 4
    loaded = load_dataset(made, 32, cache=tmp_path / "cache")
    assert loaded.split == "given"
    assert loaded.records.labels["camera"].tolist() == [split[0] for split in loaded.records.split]
    assert read_csv(made / "faces.csv").age.tolist() == read_csv(table).age.tolist()


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    table = write_faces(tmp_path, n=80, size=96)
    rows = lines(table)
    for row in rows[:40]:
        with Image.open(tmp_path / row["path"]) as image:
            image.convert("L").save(tmp_path / row["path"].replace("faces/", "faces/gray-"))
    anew = [(row["path"].replace("faces/", "faces/gray-"), row["age"]) for row in rows[:40]]
    named = [(row["path"], row["age"]) for row in rows]
    table.write_text("path,age,identity\n" + "".join(f"{path},{age},\n" for path, age in named + anew))
    made = prepare_csv(table, PrepareOptions())
    assert manifest(made)["near_duplicates"]["pairs"] >= 40
    split = dict(zip((records := read_csv(made / "faces.csv")).path, records.split, strict=True))
    assert any(split[path] != split[old["path"]] for (path, _), old in zip(anew, rows, strict=False))  # random
    shutil.rmtree(made)
    made = prepare_csv(table, PrepareOptions(split="identity"))
    split = dict(zip((records := read_csv(made / "faces.csv")).path, records.split, strict=True))
    assert all(split[path] == split[old["path"]] for (path, _), old in zip(anew, rows, strict=False))


def truncate(folder: Path) -> None:
    (shard,) = folder.glob("*-train.array_record*")
    os.truncate(shard, shard.stat().st_size // 2)


def flip(folder: Path) -> None:
    (shard,) = folder.glob("*-train.array_record*")
    data = bytearray(shard.read_bytes())
    for place in range(1000, len(data) // 2, 500):
        data[place] ^= 255
    shard.write_bytes(data)


def lose(folder: Path) -> None:
    next(folder.glob("*-test.array_record*")).unlink()


def edit(folder: Path) -> None:
    table = folder / "faces.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "prepare it again"),
    "flipped bits": (flip, "prepare it again"),
    "a shard is gone": (lose, "prepare it again"),
    "an edited table": (edit, "has been changed"),
    "half a manifest": (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
    "another manifest": (lambda folder: (folder / "manifest.json").write_text("[]"), "is not one that"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "holds no manifest"),
    "no dataset_info": (lambda folder: (folder / "dataset_info.json").unlink(), "prepare it again"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_named(out: Path, tmp_path: Path, name: str) -> None:
    damage, words = DAMAGES[name]
    shutil.copytree(out, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(DataError, match=words):
        load_dataset(tmp_path / "copy", 40, cache=tmp_path / "cache", options=LoadOptions(max_bad=0.0))


def test_a_moved_folder_still_reads(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "elsewhere")
    prepared = open_prepared(tmp_path / "elsewhere")
    assert all(len(prepared.read(path)) > 100 for path in prepared.records.path.tolist())


CHILD = """
import sys
from pathlib import Path
from tests.data.prepare.test_pipeline import LENIENT, prepare_tree, replace
print("ready", flush=True)
prepare_tree(Path(sys.argv[1]), replace(LENIENT, out=Path(sys.argv[2])))
"""


def test_killed_at_random_moments_and_started_again(tree: Path, tmp_path: Path) -> None:
    whole = prepare_tree(tree, replace(LENIENT, out=tmp_path / "whole"))
    chance = random.Random(int(time.time()))
    for _ in range(4):
        command = [sys.executable, "-c", CHILD, str(tree), str(tmp_path / "killed")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0, 0.6))
            process.send_signal(signal.SIGKILL)
        if (tmp_path / "killed").exists():
            assert contents(tmp_path / "killed") == contents(whole)
            shutil.rmtree(tmp_path / "killed")
    prepare_tree(tree, replace(LENIENT, out=tmp_path / "killed"))
    assert contents(tmp_path / "killed") == contents(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_nothing_kept_says_what_to_do(tree: Path, tmp_path: Path) -> None:
    options = PrepareOptions(out=tmp_path / "out")
    with pytest.raises(DataError, match="lower min_face_score"):
        prepare_dataset(IMDB_CROP, CropsOptions(tree, Criteria(min_face_score=99.0)), options, log=quiet)
    assert not (tmp_path / "out").exists()


def test_a_check_that_drops_every_image_is_named(tmp_path: Path) -> None:
    table = write_faces(tmp_path / "data", n=2)
    first, second = sorted((tmp_path / "data" / "faces").iterdir())
    other = second.read_bytes()
    second.write_bytes(first.read_bytes())
    table.write_text("path,age\nfaces/000.png,30\nfaces/001.png,40\n")
    with pytest.raises(DataError, match=r"'no copy' drops all records: the first is 'faces/000\.png': .* 30, 40"):
        prepare_dataset(CSV, CsvOptions(table), PrepareOptions())
    second.write_bytes(other)
    with pytest.raises(DataError, match=r"faces\.csv': none of the 2 images is in"):
        prepare_dataset(CSV, CsvOptions(table), PrepareOptions())
