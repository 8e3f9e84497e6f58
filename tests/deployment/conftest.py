from collections.abc import Iterator

import pytest

from tests.deployment.federations import Federation, on_loopback


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with on_loopback(tmp_path_factory.mktemp("loopback")) as loopback:
        loopback.start()
        yield loopback
