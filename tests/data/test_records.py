import numpy as np
import pytest

from jaxage.data.records import known, make_records, spread


def test_rows_are_spread_over_all() -> None:
    assert spread(np.arange(3), 100).tolist() == [0, 1, 2]
    rows = spread(np.arange(5000), 100)
    assert (rows[0], rows[-1], len(set(rows.tolist()))) == (0, 4999, 100)


@pytest.mark.parametrize("word", ["", " ", "nan", "NaN", "None", "NULL", "n/a", "NA", "<NA>", "Unknown", " -1 ", "?"])
def test_words_that_say_unknown_are_no_person(word: str) -> None:
    assert known(word) == ""
    records = make_records(["a", "b"], [1.0, 2.0], [word, " Nana "])
    assert records.identity.tolist() == ["", "Nana"]
