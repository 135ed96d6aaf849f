import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL
import pytest
from PIL import Image

from jaxage.data import file_index, files, image_cache
from jaxage.data.dataset import Dataset, LoadOptions, load_dataset
from jaxage.data.decode import decode_image
from jaxage.data.formats import image_formats
from jaxage.data.importers.csv_file import CSV, CsvOptions
from jaxage.data.prepare.options import PrepareOptions
from jaxage.data.prepare.pipeline import prepare_dataset
from jaxage.data.records import DataError, Failure
from jaxage.types import InputContract

SIZE = 40
SPLITS = ("train", "train", "validation", "test")


def face(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def write_set(folder: Path, count: int = 24, age: float = 20) -> Path:
    for i in range(count):
        (folder / f"{i}.jpg").write_bytes(face(i))
    return write_csv(folder, count, age)


def write_csv(folder: Path, count: int = 24, age: float = 20) -> Path:
    rows = [f"{i}.jpg,{age + i % 50},{SPLITS[i % 4]},p{i // 4}" for i in range(count)]
    csv = folder / "faces.csv"
    csv.write_text("\n".join(["path,age,split,identity", *rows]))
    return csv


def load(csv: Path, **options: Any) -> Dataset:
    return load_dataset(csv, SIZE, cache=csv.parent / "cache", options=LoadOptions(**{"workers": 2} | options))


def expected(dataset: Dataset, folder: Path) -> np.ndarray:
    return np.stack([decode_image((folder / path).read_bytes(), SIZE) for path in dataset.records.path.tolist()])


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "decoded").iterdir())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for every image decoded from here on."""
    calls: list[int] = []

    def counting(data: bytes, size: int, **form: Any) -> np.ndarray:
        calls.append(len(data))
        return decode_image(data, size, **form)

    monkeypatch.setattr(image_cache, "decode_image", counting)
    return calls


def test_what_is_loaded(tmp_path: Path) -> None:
    dataset = load(write_set(tmp_path))
    assert (dataset.name, dataset.split, dataset.failures) == ("faces", "given", ())
    assert dataset.records.path.tolist() == [f"{i}.jpg" for i in range(24)]
    assert isinstance(dataset.images, np.memmap)
    assert not dataset.images.flags.writeable
    np.testing.assert_array_equal(dataset.images, expected(dataset, tmp_path))
    assert {path.name for path in entries(tmp_path)[0].iterdir()} == {"images.npy", "failures.json"}
    np.testing.assert_array_equal(np.load(entries(tmp_path)[0] / "images.npy"), dataset.images)


def test_a_tar_gives_the_same(tmp_path: Path) -> None:
    csv = write_set(tmp_path)
    folder = load(csv)
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        for i in range(24):
            tar.add(tmp_path / f"{i}.jpg", f"{i}.jpg")
            (tmp_path / f"{i}.jpg").unlink()
    packed = load(csv)
    np.testing.assert_array_equal(packed.images, folder.images)
    assert packed.sha256 == folder.sha256


def test_the_second_time_nothing_is_decoded(tmp_path: Path, decoded: list[int]) -> None:
    csv = write_set(tmp_path)
    first = load(csv)
    assert len(decoded) == 24
    second = load(csv)
    assert len(decoded) == 24
    np.testing.assert_array_equal(second.images, first.images)
    assert (second.sha256, second.failures) == (first.sha256, first.failures)


def test_shards_are_decoded_once_each(tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """One more image is one new shard, decoding that was stopped goes on, and pixels and failures are as of one."""
    monkeypatch.setattr(image_cache, "_SHARD", 10)
    csv = write_set(tmp_path, 25)
    (tmp_path / "3.jpg").write_bytes(b"broken")
    (tmp_path / "24.jpg").write_bytes(b"broken too")
    dataset = load(csv, max_bad=0.1)
    assert len(decoded) == 25
    assert [failure.path for failure in dataset.failures] == ["3.jpg", "24.jpg"]
    np.testing.assert_array_equal(dataset.images[:], expected(dataset, tmp_path))
    (tmp_path / "25.jpg").write_bytes(face(25))
    more = load(write_csv(tmp_path, 26), max_bad=0.1)
    assert len(decoded) == 25 + 6
    np.testing.assert_array_equal(more.images[np.arange(23)], dataset.images[:])
    (second,) = (path.parent for path in tmp_path.glob("cache/decoded/*/images.npy") if len(np.load(path)) == 10)
    shutil.rmtree(second)
    np.testing.assert_array_equal(load(csv, max_bad=0.1).images[:], more.images[:])
    assert len(decoded) == 25 + 6 + 10


def test_a_disk_without_room_is_named_before_the_first_image(
    tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    csv = write_set(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: mock.Mock(free=1000))
    with pytest.raises(DataError, match=r"need 0.0 GiB, and the disk of .*cache.* has 0.0 free: make room"):
        load(csv)
    assert not decoded


def test_files_that_did_not_change_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv = write_set(tmp_path)
    monkeypatch.setattr(file_index, "_SETTLED_NS", -(10**9))
    read: list[str] = []
    read_file = files._read_file
    monkeypatch.setattr(files, "_read_file", lambda *given: read.append(given[-1]) or read_file(*given))
    first = load(csv)
    assert set(read) == set(first.records.path.tolist())
    read.clear()
    assert load(csv).sha256 == first.sha256
    assert not read
    (tmp_path / "5.jpg").write_bytes(face(99))
    assert load(csv).sha256 != first.sha256
    assert "5.jpg" in read
    (tmp_path / "6.jpg").unlink()
    assert [failure.path for failure in load(csv, max_bad=0.1).failures] == ["6.jpg"]


def test_new_labels_decode_nothing(tmp_path: Path, decoded: list[int]) -> None:
    first = load(write_set(tmp_path, age=20))
    second = load(write_csv(tmp_path, age=40))
    assert len(decoded) == 24
    assert second.sha256 != first.sha256


def test_new_contents_or_size_decode_again(tmp_path: Path, decoded: list[int]) -> None:
    csv = write_set(tmp_path)
    first = load(csv)
    (tmp_path / "3.jpg").write_bytes(face(99))
    second = load(csv)
    assert len(decoded) == 48
    assert second.sha256 != first.sha256
    np.testing.assert_array_equal(second.images[3], decode_image(face(99), SIZE))
    assert load_dataset(csv, 32, cache=tmp_path / "cache").images.shape == (24, 32, 32, 3)


def test_the_contract_decides_the_form(tmp_path: Path) -> None:
    csv, cache = write_set(tmp_path), tmp_path / "cache"
    load(csv)
    other = load_dataset(csv, SIZE, cache=cache, contract=InputContract(interpolation="bicubic", crop=0.875))
    expected = decode_image(face(0), SIZE, interpolation="bicubic", crop=0.875)
    np.testing.assert_array_equal(other.images[0], expected)
    assert len(entries(tmp_path)) == 2
    load_dataset(csv, SIZE, cache=cache, contract=InputContract(mean=(0.5,) * 3))
    assert len(entries(tmp_path)) == 2, "mean and std are no part of the pixels"


def test_the_key_of_an_entry_never_changes(tmp_path: Path) -> None:
    load(write_set(tmp_path))
    head = [f"jaxage decoded images, version 2, pillow {PIL.__version__}", *image_formats(), SIZE]
    rows = [[f"{i}.jpg", hashlib.sha256(face(i)).hexdigest()] for i in range(24)]
    lines = "".join(json.dumps(row) + "\n" for row in [head, *rows])
    assert [entry.name for entry in entries(tmp_path)] == [hashlib.sha256(lines.encode()).hexdigest()]


@pytest.mark.parametrize("name", ["sched_getaffinity", "posix_fallocate", "sync"])
def test_what_only_linux_has_is_not_needed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, name)
    csv = write_set(tmp_path)
    options = PrepareOptions(tmp_path / "out")
    prepare_dataset(CSV, CsvOptions(csv), options, log=lambda _: None)
    assert (load(csv).images == load(tmp_path / "out").images).all()


def test_the_hash_is_as_documented(tmp_path: Path) -> None:
    dataset = load(write_set(tmp_path))
    lines = [
        json.dumps([f"{i}.jpg", 20.0 + i, f"p{i // 4}", SPLITS[i % 4], hashlib.sha256(face(i)).hexdigest()])
        for i in range(24)
    ]
    assert dataset.sha256 == hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()


def test_undecided_splits_are_decided(tmp_path: Path) -> None:
    write_set(tmp_path, 60)
    csv = tmp_path / "faces.csv"
    csv.write_text("path,age,group\n" + "\n".join(f"{i}.jpg,30,{i // 2}" for i in range(60)))
    by_image, by_person = load(csv), load(csv, split="identity", seed=3)
    assert (by_image.split, by_person.split) == ("random", "identity")
    assert (by_person.records.split[::2] == by_person.records.split[1::2]).all()
    assert by_image.sha256 != by_person.sha256
    assert len(entries(tmp_path)) == 1


def test_splits_that_are_given_are_kept_unless_others_are_asked_for(tmp_path: Path) -> None:
    table = write_set(tmp_path, 60)
    given, anew = load(table), load(table, split="random")
    assert (given.split, anew.split) == ("given", "random")
    assert given.records.split.tolist() == [SPLITS[i % 4] for i in range(60)]
    assert (given.records.split != anew.records.split).any()


def spoil(folder: Path) -> None:
    (folder / "1.jpg").unlink()
    (folder / "2.jpg").write_text("no image")
    (folder / "5.jpg").write_bytes(face(5)[:400])
    (folder / "6.jpg").unlink()
    (folder / "6.jpg").symlink_to(folder / "7.jpg")


def test_failures_are_left_out_and_listed(tmp_path: Path, decoded: list[int]) -> None:
    csv = write_set(tmp_path)
    spoil(tmp_path)
    for _ in range(2):
        dataset = load(csv, max_bad=0.2)
        assert [failure.path for failure in dataset.failures] == ["1.jpg", "2.jpg", "5.jpg", "6.jpg"]
        reasons = [failure.reason for failure in dataset.failures]
        assert reasons[:2] == ["missing", "not an image in a known format"]
        assert reasons[2].startswith("truncated or corrupt")
        assert reasons[3].startswith("a link, not a file")
        assert dataset.records.path.tolist() == [f"{i}.jpg" for i in range(24) if i not in (1, 2, 5, 6)]
        np.testing.assert_array_equal(dataset.images, expected(dataset, tmp_path))
    assert len(decoded) == 22
    (tmp_path / "1.jpg").write_bytes(face(1))
    assert Failure("1.jpg", "missing") not in load(csv, max_bad=0.2).failures


def test_too_many_failures_stop(tmp_path: Path) -> None:
    csv = write_set(tmp_path, 50)
    for i in range(12):
        (tmp_path / f"{i}.jpg").unlink()
    with pytest.raises(DataError) as caught:
        load(csv)
    message = str(caught.value)
    assert "12 of 50 images" in message
    assert "mend them or their paths" in message
    assert "max_bad 0.01" in message
    assert message.count(".jpg': missing") == 10
    assert message.endswith("and 2 more")
    (whole,) = re.findall(r"all of them are in (\S+failures\.json)", message)
    assert len(json.loads(Path(whole).read_text())) == 12
    assert len(load(csv, max_bad=0.24).failures) == 12


def test_what_is_missing_is_explained_as_it_is_now(tmp_path: Path) -> None:
    csv = write_set(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "3.jpg").unlink()
    assert load(csv, max_bad=0.2).failures == (Failure("3.jpg", "missing"),)
    (tmp_path / "elsewhere" / "3.jpg").write_bytes(face(3))
    assert load(csv, max_bad=0.2).failures == (Failure("3.jpg", "missing, but there is 'elsewhere/3.jpg'"),)
    assert len(entries(tmp_path)) == 1


def test_no_image_at_all(tmp_path: Path) -> None:
    csv = write_csv(tmp_path)
    with pytest.raises(DataError, match="24 of 24 images"):
        load(csv)
    with pytest.raises(DataError, match=r"(?s)24 images cannot be used:.*0\.jpg': missing.*none of the 0 images"):
        load(csv, max_bad=1.0)


def test_bad_images_are_reported_before_empty_splits(tmp_path: Path) -> None:
    csv = tmp_path / "faces.csv"
    csv.write_text("path,age\nno.jpg,30\n")
    with pytest.raises(DataError, match=r"(?s)1 of 1 images .* cannot be used.*no\.jpg': missing") as caught:
        load(csv)
    assert "validation" not in str(caught.value)
    with pytest.raises(DataError, match=r"(?s)no\.jpg': missing.*none of the 1 images is in"):
        load(csv, max_bad=1.0)


def test_a_split_emptied_by_failures(tmp_path: Path) -> None:
    csv = write_set(tmp_path)
    for i in range(2, 24, 4):
        (tmp_path / f"{i}.jpg").unlink()
    with pytest.raises(DataError, match=r"(?s)6 images cannot be used.*none of the 18 images is in validation"):
        load(csv, max_bad=0.5)


def test_without_a_rule_the_splits_stay_and_may_be_empty(tmp_path: Path) -> None:
    csv = write_set(tmp_path)
    for i in range(2, 24, 4):
        (tmp_path / f"{i}.jpg").unlink()
    whole = load(csv, split=None, max_bad=0.5)
    assert whole.split is None
    assert set(whole.records.split) == {"train", "test"}
    (tmp_path / "bare.csv").write_text("path,age\n0.jpg,30\n")
    bare = load(tmp_path / "bare.csv", split=None)
    assert bare.records.split.tolist() == [""]
    with pytest.raises(DataError, match="none of the 1 images is in"):
        load(tmp_path / "bare.csv")


def truncate(entry: Path) -> None:
    os.truncate(entry / "images.npy", (entry / "images.npy").stat().st_size - 1)


def lengthen(entry: Path) -> None:
    with (entry / "images.npy").open("ab") as file:
        file.write(b"x")


def other_type(entry: Path) -> None:
    np.save(entry / "images.npy", np.zeros((24, SIZE, SIZE, 3), np.int8))


def other_shape(entry: Path) -> None:
    np.save(entry / "images.npy", np.zeros((23, SIZE, SIZE, 3), np.uint8))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "longer": lengthen,
    "other type": other_type,
    "other shape": other_shape,
    "no header": lambda entry: (entry / "images.npy").write_bytes(b"PK\x03\x04"),
    "empty": lambda entry: (entry / "images.npy").write_bytes(b""),
    "no images": lambda entry: (entry / "images.npy").unlink(),
    "no failures": lambda entry: (entry / "failures.json").unlink(),
    "half a JSON": lambda entry: (entry / "failures.json").write_text("[{"),
    "other JSON": lambda entry: (entry / "failures.json").write_text('[{"path": "1.jpg"}]'),
    "a number": lambda entry: (entry / "failures.json").write_text("3"),
    "nothing": lambda entry: [path.unlink() for path in entry.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_built_again(tmp_path: Path, decoded: list[int], damage: Callable[[Path], object]) -> None:
    csv = write_set(tmp_path)
    load(csv)
    damage(entries(tmp_path)[0])
    for _ in range(2):
        dataset = load(csv)
        np.testing.assert_array_equal(dataset.images, expected(dataset, tmp_path))
        assert len(decoded) == 48
        assert len(entries(tmp_path)) == 1


def test_a_file_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv = write_set(tmp_path)

    def meddling(data: bytes, size: int, **form: Any) -> np.ndarray:
        (tmp_path / "23.jpg").write_bytes(b"other")
        return decode_image(data, size, **form)

    monkeypatch.setattr(image_cache, "decode_image", meddling)
    with pytest.raises(DataError, match=r"'23\.jpg' has changed"):
        load(csv, workers=1)
    assert entries(tmp_path) == []


def test_an_unwritable_cache(tmp_path: Path) -> None:
    csv = write_set(tmp_path)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"could not be decoded: .*/cache/decoded': Not a directory: choose a folder"):
        load(csv)


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv = write_set(tmp_path)

    def interrupted(data: bytes, size: int, **_: Any) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(image_cache, "decode_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(csv)
    assert entries(tmp_path) == []


CHILD = """
import sys, time
from pathlib import Path
from jaxage.data import file_index, files, image_cache
from jaxage.data.dataset import LoadOptions, load_dataset
decode, left = image_cache.decode_image, int(sys.argv[2])
def slow(data, size, **form):
    global left
    left -= 1
    if left < 0:
        print("stuck", flush=True)
        time.sleep(60)
    return decode(data, size, **form)
image_cache.decode_image = slow
csv = Path(sys.argv[1])
load_dataset(csv, 40, cache=csv.parent / "cache", options=LoadOptions(workers=1))
"""


def child(csv: Path, images: int) -> subprocess.Popen[str]:
    """Another process that loads the same set and gets stuck after some images."""
    command = [sys.executable, "-c", CHILD, str(csv), str(images)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_killed_while_building(tmp_path: Path) -> None:
    csv = write_set(tmp_path, 1000)
    with child(csv, 900) as process:
        assert process.stdout
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGKILL)
    (left,) = entries(tmp_path)
    assert sum(path.stat().st_size for path in left.iterdir()) > 0
    dataset = load(csv)
    np.testing.assert_array_equal(dataset.images, expected(dataset, tmp_path))
    assert len(entries(tmp_path)) == 2
    an_hour_ago = time.time() - 3700
    for path in (left, *left.iterdir()):
        os.utime(path, (an_hour_ago, an_hour_ago))
    load(csv)
    assert left not in entries(tmp_path)
    assert len(entries(tmp_path)) == 1


def test_another_process_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv = write_set(tmp_path)
    first, lock = [True], threading.Lock()

    def overtaken(data: bytes, size: int, **form: Any) -> np.ndarray:
        with lock:
            if first.pop() if first else False:
                with child(csv, 24) as process:
                    assert process.wait(60) == 0
        return decode_image(data, size, **form)

    monkeypatch.setattr(image_cache, "decode_image", overtaken)
    dataset = load(csv)
    assert not first
    np.testing.assert_array_equal(dataset.images, expected(dataset, tmp_path))
    (entry,) = entries(tmp_path)
    assert not entry.name.startswith(".")


def test_both_rename_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv = write_set(tmp_path)
    rename = image_cache.rename_folder

    def late(unfinished: Path, folder: Path) -> bool:
        with child(csv, 24) as process:
            assert process.wait(60) == 0
        return rename(unfinished, folder)

    monkeypatch.setattr(image_cache, "rename_folder", late)
    dataset = load(csv)
    np.testing.assert_array_equal(dataset.images, expected(dataset, tmp_path))
    (entry,) = entries(tmp_path)
    assert not entry.name.startswith(".")


def test_real_faces(tmp_path: Path) -> None:
    if "JAXAGE_TEST_DATA" not in os.environ:
        pytest.skip("set JAXAGE_TEST_DATA to the folder with utkface.csv and utkface.tar")
    data = Path(os.environ["JAXAGE_TEST_DATA"])
    lines = (data / "utkface.csv").read_text().splitlines()
    (tmp_path / "utkface.csv").write_text("\n".join(lines[:1] + lines[1::60]))
    (tmp_path / "utkface.tar").symlink_to(data / "utkface.tar")
    dataset = load_dataset(tmp_path / "utkface.csv", 64, cache=tmp_path / "cache")
    assert dataset.failures == ()
    assert dataset.images.shape == (385, 64, 64, 3)
    assert 80 < dataset.images.mean() < 160
