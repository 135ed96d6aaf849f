from pathlib import Path

import pytest

from jaxage.types import UserError
from jaxage.utils.files import hold


def test_one_at_a_time_and_again_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with hold(folder, UserError("busy")):
        with pytest.raises(UserError, match="busy"), hold(folder, UserError("busy")):
            pass
        with hold(tmp_path / "other", UserError("busy")):
            pass
    with hold(folder, UserError("busy")), pytest.raises(UserError, match="busy"), hold(folder, UserError("busy")):
        pass
