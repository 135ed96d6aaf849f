"""The detector's network, downloaded once."""

import pytest

from jaxage.photos.detector import Network, open_network
from jaxage.pretrained.download import WeightsUnavailableError


@pytest.fixture(scope="session")
def network() -> Network:
    try:
        return open_network()
    except WeightsUnavailableError as error:
        pytest.skip(str(error))
