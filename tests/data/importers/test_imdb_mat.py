import os
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from jaxage.data.importers.imdb_mat import AgeFormula, Collection, Metadata, parse_metadata
from jaxage.data.records import DataError
from tests.data.mat import FIELDS, write_mat


def read_metadata(path: Path, collection: Collection) -> Metadata:
    return parse_metadata(path.read_bytes(), str(path), collection)


@pytest.fixture(scope="module")
def mat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mat(tmp_path_factory.mktemp("mat") / "imdb.mat", "imdb")


def test_birth_is_the_file_names_and_else_the_records(mat: Path) -> None:
    metadata = read_metadata(mat, "imdb")
    recorded = [date.fromordinal(max(day - 366, 1)) for day in FIELDS["dob"]]
    years = [1899, 1992, recorded[2].year, 1989, 1]
    months = [5, 0, recorded[2].month, 8, 1]
    assert metadata.birth_year.tolist() == years
    assert metadata.birth_month.tolist() == months
    assert metadata.identity.tolist() == ["nm0000001", "nm0000002", "nm0000003", "nm0000004", ""]


def test_years_do_not_wrap_and_both_formulas_hold(mat: Path) -> None:
    metadata = read_metadata(mat, "imdb")
    assert metadata.photo_year.dtype == np.int64
    assert metadata.ages("year").tolist() == [69, 22, 2012 - metadata.birth_year[2], 20, 1949]
    assert metadata.ages("midyear")[[0, 1, 3, 4]].tolist() == [69, 22, 19, 1949]


def test_days_that_are_none_are_of_the_year_one_and_fields_of_another_kind_are_refused(tmp_path: Path) -> None:
    odd = [np.nan, np.inf, 1e9, -np.inf, -5.0]
    names = [f"0/{i}.jpg" for i in range(5)]
    path = write_mat(tmp_path / "odd.mat", "imdb", FIELDS | {"full_path": names})
    raw = scipy.io.loadmat(path)["imdb"]
    raw["dob"][0, 0] = np.asarray([odd])
    scipy.io.savemat(path, {"imdb": raw})
    assert read_metadata(path, "imdb").birth_year.tolist() == [1] * 5
    raw["full_path"][0, 0] = np.asarray([[np.asarray([1.0]), *names[1:]]], object)
    scipy.io.savemat(path, {"imdb": raw})
    assert read_metadata(path, "imdb").path.tolist() == ["", *names[1:]]
    raw["face_score"][0, 0] = np.asarray([["a"] * 5], object)
    scipy.io.savemat(path, {"imdb": raw})
    with pytest.raises(DataError, match="face_score does not hold numbers"):
        read_metadata(path, "imdb")


def test_scores_and_gender_keep_their_gaps(mat: Path) -> None:
    metadata = read_metadata(mat, "imdb")
    np.testing.assert_array_equal(metadata.face_score, FIELDS["face_score"])
    np.testing.assert_array_equal(metadata.second_face_score, FIELDS["second_face_score"])
    np.testing.assert_array_equal(metadata.gender, FIELDS["gender"])


def test_a_file_that_is_none_is_named_with_what_to_do(mat: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mat"
    cut.write_bytes(mat.read_bytes()[:-40])
    text = tmp_path / "text.mat"
    text.write_text("no matrix")
    short = write_mat(tmp_path / "short.mat", "imdb", FIELDS | {"gender": [1.0]})
    other = write_mat(tmp_path / "other.mat", "imdb", {"dob": FIELDS["dob"]})
    flat = tmp_path / "flat.mat"
    scipy.io.savemat(flat, {"imdb": np.arange(3)})
    for path, reason in {
        cut: "cut short",
        text: "no .mat file",
        short: "unequal length .*gender 1",
        other: "lacks photo_taken",
        flat: "no .mat file",
    }.items():
        with pytest.raises(DataError, match=reason) as caught:
            read_metadata(path, "imdb")
        assert str(path) in str(caught.value)
    with pytest.raises(DataError, match="no struct wiki"):
        read_metadata(mat, "wiki")


@pytest.mark.parametrize("formula", ["midyear", "year"])
def test_the_ages_of_the_real_wiki_agree_with_the_records_alone(formula: AgeFormula) -> None:
    """All 62,328, against the days of birth of the .mat; one file name is out by 10 years, in the year 11."""
    if "JAXAGE_TEST_DATA" not in os.environ:
        pytest.skip("set JAXAGE_TEST_DATA to the folder with wiki.mat")
    path = Path(os.environ["JAXAGE_TEST_DATA"], "wiki.mat")
    struct = scipy.io.loadmat(path)["wiki"][0, 0]
    days = np.maximum(struct["dob"].ravel().astype(np.int64) - 366, 1)
    born = [date.fromordinal(int(day)) for day in days]
    year, month = (np.asarray([getattr(day, part) for day in born]) for part in ("year", "month"))
    expected = struct["photo_taken"].ravel().astype(np.int64) - year
    if formula == "midyear":
        expected = expected - (month >= 7)
    ages = read_metadata(path, "wiki").ages(formula)
    (differs,) = np.nonzero(ages != expected)
    assert len(ages) == 62328
    assert len(differs) <= 1
