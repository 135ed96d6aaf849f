import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from jaxage.data.records import SPLITS, DataError, Records, make_records
from jaxage.data.splits import RATIOS, assign_splits, leakage
from jaxage.types import SplitRule

RULES: tuple[SplitRule, ...] = ("random", "identity")
BASE = [f"base/{i}.jpg" for i in range(100)]
new_names = st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), unique=True, max_size=20)


def faces(paths: list[str], identity: list[str] | None = None) -> Records:
    return make_records(paths, [30.0] * len(paths), identity)


def shares(records: Records) -> np.ndarray:
    return np.asarray([len(records.rows_of(split)) / len(records) for split in SPLITS])


def test_the_same_on_every_machine() -> None:
    records = faces([f"{i}.jpg" for i in range(24)], ["ann", "bob", "", "cid", "dan", "eve"] * 4)
    second = {how: "".join(split[1] for split in assign_splits(records, how, 1).split) for how in RULES}
    assert second == {"random": "reerrrerrererrrrearaarrr", "identity": "raraerraaaerraraerraraer"}


@given(new_names, st.integers(0, 2**32), st.randoms())
def test_adding_and_reordering_images_moves_no_other(names: list[str], seed: int, random: object) -> None:
    before = assign_splits(faces(BASE), "random", seed)
    paths = BASE + names
    random.shuffle(paths)  # type: ignore[attr-defined]
    after = assign_splits(faces(paths), "random", seed)
    assert after.path.tolist() == paths
    now = dict(zip(after.path, after.split, strict=True))
    assert [now[path] for path in BASE] == before.split.tolist()


@given(new_names, st.lists(st.sampled_from(["", "ann", "bob", "cid"]), min_size=20, max_size=20))
def test_adding_images_moves_no_person(names: list[str], who: list[str]) -> None:
    people = [f"person {i % 40}" for i in range(100)]
    before = assign_splits(faces(BASE, people), "identity", 3)
    after = assign_splits(faces(BASE + names, people + who[: len(names)]), "identity", 3)
    assert after.split[:100].tolist() == before.split.tolist()


@pytest.mark.parametrize("how", RULES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ratios", [(0.6, 0.2, 0.2), (0.8, 0.15, 0.05)])
def test_ratios(how: SplitRule, seed: int, ratios: tuple[float, float, float]) -> None:
    records = faces([f"{i}.jpg" for i in range(20_000)], [f"{i // 2}" for i in range(20_000)])
    np.testing.assert_allclose(shares(assign_splits(records, how, seed, ratios)), ratios, atol=0.01)


def test_another_seed_gives_an_unrelated_split() -> None:
    records = faces([f"{i}.jpg" for i in range(5000)])
    a, b = (assign_splits(records, "random", seed).split for seed in (1, 2))
    assert abs((a == b).mean() - (0.6**2 + 2 * 0.2**2)) < 0.03


@given(st.lists(st.integers(0, 30), min_size=60, max_size=60), st.integers(0, 1000))
def test_identity_keeps_people_together(who: list[int], seed: int) -> None:
    people = [f"person {i}" for i in range(90)] + [f"person {i}" for i in who]
    records = assign_splits(faces([f"{i}.jpg" for i in range(150)], people), "identity", seed)
    sides = {(person, split) for person, split in zip(records.identity, records.split, strict=True)}
    assert len(sides) == len(set(people))
    assert leakage(records)["seen_share"] == 0


def test_the_nameless_are_people_of_their_own() -> None:
    records = faces([f"{i}.jpg" for i in range(1000)], ["ann"] + [""] * 999)
    np.testing.assert_allclose(shares(assign_splits(records, "identity", 0)), (0.6, 0.2, 0.2), atol=0.05)


def test_a_nameless_photo_stays_where_it_is_when_it_is_named_by_its_path() -> None:
    paths = [f"{i}.jpg" for i in range(300)]
    nameless = assign_splits(faces(paths, ["ann"] + [""] * 299), "identity", 0)
    named = assign_splits(faces([*paths, "x.jpg"], ["ann", *paths[1:], "5.jpg"]), "identity", 0)
    assert named.split[:300].tolist() == nameless.split.tolist()
    assert named.split[300] == nameless.split[5]


def test_refusals() -> None:
    with pytest.raises(DataError, match="needs a column identity"):
        assign_splits(faces(BASE), "identity", 0)
    with pytest.raises(DataError, match=r"none of the 2 images is in .*another seed"):
        assign_splits(faces(["a.jpg", "b.jpg"]), "random", 0)
    with pytest.raises(ValueError, match="splits already"):
        assign_splits(assign_splits(faces(BASE), "random", 0), "random", 0)
    for ratios in ((0.6, 0.2, 0.1), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1)):
        with pytest.raises(ValueError, match="sum to 1"):
            assign_splits(faces(BASE), "random", 0, ratios)


def test_leakage() -> None:
    records = make_records(
        [f"{i}.jpg" for i in range(8)],
        [30.0] * 8,
        ["ann", "bob", "", "ann", "ann", "cid", "bob", ""],
        ["train", "validation", "train", "test", "test", "test", "test", "test"],
    )
    expected = {"test_images": 5, "test_images_known": 4, "test_images_seen": 2, "seen_share": 0.5}
    assert json.loads(json.dumps(leakage(records))) == expected


def test_leakage_of_strangers_is_unknown() -> None:
    records = assign_splits(faces(BASE), "random", 0)
    assert leakage(records)["seen_share"] is None


def crowd(people: int, seed: int) -> tuple[list[str], list[float]]:
    """Who is on each photo, a few people on hundreds, and their ages, alike on photos of one person."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), np.minimum(rng.zipf(2.2, people), 400))
    ages = np.clip(np.rint(rng.normal(38, 12, people)[who] + rng.normal(0, 8, len(who))), 0, 100)
    return [f"nm{i:07}" for i in who], ages.tolist()


def celebrities(who: list[str], ages: list[float]) -> Records:
    return make_records([f"{i}.jpg" for i in range(len(who))], ages, who)


def test_identity_balances_a_crowd_and_one_more_photo_moves_no_other() -> None:
    who, ages = crowd(9000, 0)
    records = assign_splits(celebrities(who, ages), "identity", 0)
    np.testing.assert_allclose(shares(records), RATIOS, atol=0.01)
    for split in SPLITS:
        assert ks_2samp(records.age[records.rows_of(split)], records.age).statistic < 0.03
    assert leakage(records)["seen_share"] == 0
    after = assign_splits(celebrities([*who, who[0]], [*ages, 99.0]), "identity", 0).split
    assert after[:-1].tolist() == records.split.tolist()


def test_people_who_own_too_much_are_divided_as_well_as_can_be() -> None:
    who = [f"nm{i // 3}" for i in range(3000)] + ["nm0"] * 9000
    records = assign_splits(celebrities(who, [30.0] * 12000), "identity", 0)
    assert leakage(records)["seen_share"] == 0
    assert shares(records).max() > 0.75
