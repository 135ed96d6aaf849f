import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxage.data.importers.filters import Criteria, filter_records
from jaxage.data.importers.imdb_mat import Metadata, parse_metadata
from jaxage.data.importers.importer import funnel_table
from jaxage.types import UserError
from tests.data.mat import write_mat

ALL = Criteria(min_face_score=-1e9, max_age=3000, fraction=1.0)


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Metadata:
    path = write_mat(tmp_path_factory.mktemp("mat") / "imdb.mat", "imdb")
    return parse_metadata(path.read_bytes(), str(path), "imdb")


def test_each_criterion_drops_its_own_in_order(metadata: Metadata) -> None:
    kept, steps = filter_records(metadata, replace(ALL, min_face_score=3.6, max_age=100), 0)
    assert kept.tolist() == [False, True, False, True, False]
    assert steps == [
        ("records", 5, 0),
        ("face", 4, 1),
        ("single face", 3, 1),
        ("face score", 2, 1),  # above 3.6, not from it
        ("age", 2, 0),
        ("fraction", 2, 0),
    ]
    assert "face score" in funnel_table(steps)


@given(st.floats(0.05, 1), st.integers(0, 99))
def test_a_fraction_lies_within_a_larger_one_and_follows_the_seed(fraction: float, seed: int) -> None:
    n = 400
    paths = np.asarray([f"00/nm{i:07}_rm{i}_1950-1-1_2000.jpg" for i in range(n)])
    numbers = np.full(n, 1950)
    metadata = Metadata(
        paths, paths, numbers, numbers * 0, numbers + 50, np.ones(n), np.full(n, 5.0), np.full(n, np.nan)
    )
    some, steps = filter_records(metadata, Criteria(fraction=fraction), seed)
    more, _ = filter_records(metadata, Criteria(fraction=min(1.0, fraction + 0.2)), seed)
    assert not (some & ~more).any()
    assert abs(some.mean() - fraction) < 0.15
    assert steps[-1].kept == some.sum()
    other, _ = filter_records(metadata, Criteria(fraction=fraction), seed + 1)
    assert fraction > 0.97 or (some != other).any()


def test_settings_out_of_range_are_named() -> None:
    for wrong, word in ({"fraction": 0.0}, "fraction"), ({"min_age": 50, "max_age": 18}, "min_age 50"):
        with pytest.raises(UserError, match=word):
            Criteria(**wrong)


@pytest.mark.parametrize(("score", "kept"), [(1.0, 38874), (3.5, 17097)])
def test_the_counts_of_the_real_wiki(score: float, kept: int) -> None:
    if "JAXAGE_TEST_DATA" not in os.environ:
        pytest.skip("set JAXAGE_TEST_DATA to the folder with wiki.mat")
    path = Path(os.environ["JAXAGE_TEST_DATA"], "wiki.mat")
    metadata = parse_metadata(path.read_bytes(), str(path), "wiki")
    ages = metadata.ages("midyear")
    assert (ages.min(), ages.max()) == (-74, 1996)
    assert ((ages >= 0) & (ages <= 100)).sum() == 60547
    assert np.isnan(metadata.second_face_score).sum() == 58232
    _, steps = filter_records(metadata, Criteria(min_face_score=score, fraction=1.0), 0)
    assert steps[:2] == [("records", 62328, 0), ("face", 44312, 18016)]
    assert steps[4].kept == kept
