from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxage.data.splits import assign_splits
from jaxage.data.synthetic.faces import synthetic_faces
from jaxage.report.contact_sheet import contact_sheet
from jaxage.types import UserError


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, object]:
    return synthetic_faces(1000, 32, 0)


def test_shapes_and_records(faces) -> None:
    images, records = faces
    assert images.shape == (1000, 32, 32, 3)
    assert images.dtype == np.uint8
    assert len(set(records.path.tolist())) == 1000
    np.testing.assert_array_equal(records.age, np.rint(records.age))
    assert not np.signbit(records.age).any()
    assert records.age.min() >= 0
    assert records.age.max() <= 100
    assert (records.split == "").all()


def test_four_photos_of_each_person_at_several_ages(faces) -> None:
    _, records = faces
    people, counts = np.unique(records.identity, return_counts=True)
    assert len(people) == 250
    assert (counts == 4).all()
    ages = records.age.reshape(250, 4)
    assert (np.ptp(ages, axis=1) > 0).mean() > 0.95


def test_all_ages_occur(faces) -> None:
    counts, _ = np.histogram(faces[1].age, bins=[0, 13, 20, 30, 40, 50, 60, 101])
    assert (counts >= 40).all()


def test_every_photo_is_its_own_and_has_contrast(faces) -> None:
    images, _ = faces
    assert len({image.tobytes() for image in images}) == len(images)
    assert images.reshape(len(images), -1).std(axis=1).min() > 10


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70), st.integers(0, 40), st.integers(0, 2**31))
def test_a_larger_set_extends_a_smaller_one_and_the_seed_decides(n: int, more: int, seed: int) -> None:
    images, records = synthetic_faces(n, 32, seed)
    larger, larger_records = synthetic_faces(n + more, 32, seed)
    np.testing.assert_array_equal(larger[:n], images)
    np.testing.assert_array_equal(larger_records.age[:n], records.age)
    other, _ = synthetic_faces(n, 32, seed + 1)
    assert not np.array_equal(other, images)


def test_the_pixels_are_pinned() -> None:
    """Within rounding of another processor's mathematics."""
    images, records = synthetic_faces(3, 32, 0)
    assert records.age.tolist() == [87, 75, 86]
    np.testing.assert_allclose(
        images.mean(axis=(1, 2)), [[129.99, 87.77, 84.88], [185.58, 171.68, 158.42], [125.61, 111.01, 101.75]], atol=0.1
    )


def test_age_shows_in_the_pixels_of_people_never_seen(faces) -> None:
    """Ridge regression on pixels can learn age; no single pixel tells it."""
    images, records = faces
    records = assign_splits(records, "identity", 0)
    pixels = images.reshape(len(images), -1) / 255.0
    train, test = records.rows_of("train"), records.rows_of("test")
    mean = records.age[train].mean()
    gram = pixels[train] @ pixels[train].T + 100 * np.eye(len(train))
    prediction = pixels[test] @ pixels[train].T @ np.linalg.solve(gram, records.age[train] - mean)
    assert stats.pearsonr(prediction, records.age[test]).statistic > 0.5
    single = [abs(stats.pearsonr(column, records.age).statistic) for column in pixels[:, ::7].T]
    assert max(single) < 0.8


@pytest.mark.parametrize(("n", "size"), [(0, 64), (-1, 64), (4, 31)])
def test_too_few_or_too_small(n: int, size: int) -> None:
    with pytest.raises(UserError, match="at least one face and 32 px"):
        synthetic_faces(n, size, 0)


def test_a_contact_sheet_can_be_made(tmp_path: Path, faces) -> None:
    images, records = faces
    order = np.argsort(records.age, kind="stable")[::25]
    contact_sheet(tmp_path / "sheet.png", images[order], [f"{age:.0f}" for age in records.age[order]], 10)
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
