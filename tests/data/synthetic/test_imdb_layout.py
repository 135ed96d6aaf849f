from pathlib import Path

import numpy as np
import pytest

from jaxage.data.importers.imdb_mat import Collection, parse_metadata
from jaxage.data.synthetic.imdb_layout import Photo, write_tree


@pytest.mark.parametrize("collection", ["imdb", "wiki"])
def test_what_is_written_is_read_back(tmp_path: Path, collection: Collection) -> None:
    photos = [Photo(bytes([age]), age, 7 + age // 4, "male" if age % 2 else "female") for age in range(101)]
    photos += [Photo(None, 30, 3, face_score=-np.inf, second_face_score=1.0, path="../x.jpg")]
    write_tree(tmp_path, collection, iter(photos))
    mat = tmp_path / f"{collection}.mat"
    metadata = parse_metadata(mat.read_bytes(), str(mat), collection)
    assert metadata.ages("midyear")[:101].tolist() == list(range(101))
    assert set((metadata.ages("year") - metadata.ages("midyear"))[:101].tolist()) == {0, 1}
    assert [(tmp_path / path).read_bytes() for path in metadata.path[:101]] == [bytes([age]) for age in range(101)]
    assert metadata.path[101] == "../x.jpg"
    assert not (tmp_path.parent / "x.jpg").exists()
    assert len(set(metadata.identity[:101].tolist())) == 26
    assert metadata.gender[:4].tolist() == [0, 1, 0, 1]
    assert np.isnan(metadata.gender[101])
    assert metadata.face_score[100:].tolist() == [5, -np.inf]
    assert np.isnan(metadata.second_face_score).sum() == 101
