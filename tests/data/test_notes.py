import numpy as np
import pytest

from jaxage.data.notes import Copies, count_copies, notes_on
from jaxage.data.records import make_records


def test_copies_on_both_sides_and_of_two_ages_are_counted() -> None:
    records = make_records(
        [f"{i}.jpg" for i in range(6)],
        [1.0, 2.0, 1.0, 3.0, 4.0, 5.0],
        split=["train", "train", "test", "test", "validation", "test"],
    )
    copies = count_copies(records, ["a", "b", "a", "b", "b", "c"])
    assert copies == Copies(in_train=2, other_age=3)
    assert notes_on(records, copies) == (
        "2 of 3 test images have the bytes of a training image",
        "3 images have a copy of another age; jaxage prepare drops copies",
    )
    assert notes_on(records, Copies(0, 0)) == ()


@pytest.mark.parametrize(("rows", "noted"), [(150, True), (90, False)])
def test_one_person_with_many_rows(rows: int, noted: bool) -> None:
    who = ["0"] * rows + [""] * 400 + ["x", "y"]
    records = make_records([str(i) for i in range(len(who))], np.ones(len(who)).tolist(), who)
    notes = notes_on(records, Copies(0, 0))
    assert bool(notes) == noted
    assert not noted or notes[0].startswith("the identity '0' has 150 of 552 rows: leave it empty if")
