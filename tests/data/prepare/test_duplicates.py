import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxage.data.decode import decode_image
from jaxage.data.files import open_files
from jaxage.data.importers.csv_file import read_csv
from jaxage.data.prepare.duplicates import NEAR, copies, fingerprint, join, near_pairs
from jaxage.data.synthetic.faces import synthetic_faces


def bits(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 2**64, (n, 2), np.uint64)


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.bitwise_count(a ^ b).sum())


def test_the_same_photo_anew_is_near_and_another_is_not() -> None:
    images, _ = synthetic_faces(8, 128, seed=1)
    first = Image.fromarray(images[0])
    changed = {
        "smaller": first.resize((90, 90), Image.Resampling.BILINEAR).resize((128, 128), Image.Resampling.BILINEAR),
        "gray": first.convert("L").convert("RGB"),
        "darker": first.point(lambda value: value * 0.8),
        "itself": first,
    }
    for name, image in changed.items():
        assert distance(fingerprint(np.asarray(image)), fingerprint(images[0])) <= NEAR, name
    assert distance(fingerprint(images[0][:, ::-1]), fingerprint(images[0])) > NEAR


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60))
def test_pairs_are_those_of_a_plain_loop(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    prints = bits(rng, n)
    for row in range(1, n, 3):  # 5 to 12 bits away from the row before
        flips = rng.choice(128, rng.integers(5, 13), replace=False)
        mask = np.zeros(128, np.uint8)
        mask[flips] = 1
        prints[row] = prints[row - 1] ^ np.packbits(mask).view(np.uint64)
    expected = {(i, j) for i in range(n) for j in range(i + 1, n) if distance(prints[i], prints[j]) <= NEAR}
    with ThreadPoolExecutor(2) as pool:
        assert {tuple(pair) for pair in near_pairs(prints, pool).tolist()} == expected


def test_no_pairs_among_none_or_over_many_blocks() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert near_pairs(np.empty((0, 2), np.uint64), pool).shape == (0, 2)
        prints = bits(np.random.default_rng(0), 3000)
        prints[2999] = prints[5]
        assert near_pairs(prints, pool).tolist() == [[5, 2999]]


def test_join_goes_over_people_and_pairs() -> None:
    identity = ["bob", "", "ann", "", "cid", "", "bob", ""]
    paths = [f"{row}.jpg" for row in range(8)]
    pairs = np.asarray([[1, 2], [2, 6], [3, 5]])
    assert join(identity, paths, pairs) == ["ann", "ann", "ann", "3.jpg", "cid", "3.jpg", "ann", ""]
    assert join(identity, paths, np.empty((0, 2), np.int64)) == identity
    assert join([], [], np.empty((0, 2), np.int64)) == []


def test_copies_of_one_age_leave_one_and_of_two_leave_none() -> None:
    digests = ["a", "b", "a", "c", "b", "d", "a"]
    paths = [f"{row}.jpg" for row in range(7)]
    reasons = copies(digests, paths, [30.0, 20.0, 30.0, 50.0, 21.0, 60.0, 30.0])
    assert reasons == {
        1: "copies of this image have the ages 20, 21",
        2: "a copy of '0.jpg'",
        4: "copies of this image have the ages 20, 21",
        6: "a copy of '0.jpg'",
    }


def test_near_duplicates_of_real_faces() -> None:
    """Of the pairs that UTKFace names itself 2 in 3 are found, and hardly any other."""
    if "JAXAGE_TEST_DATA" not in os.environ:
        pytest.skip("set JAXAGE_TEST_DATA to the folder with utkface.csv and utkface.tar")
    folder = Path(os.environ["JAXAGE_TEST_DATA"])
    records = read_csv(folder / "utkface.csv")
    names, counts = np.unique(records.identity, return_counts=True)
    twice = np.flatnonzero(np.isin(records.identity, names[counts == 2]))
    with open_files(folder / "utkface.tar") as files, ThreadPoolExecutor(2) as pool:
        prints = np.stack(
            list(pool.map(lambda path: fingerprint(decode_image(files.read(path), 64)), records.path[twice].tolist()))
        )
        pairs = near_pairs(prints, pool)
    who = records.identity[twice]
    same = who[pairs[:, 0]] == who[pairs[:, 1]]
    assert same.sum() > 0.6 * len(twice) / 2
    assert (~same).sum() < 20
