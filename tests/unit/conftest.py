import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _quick_disk() -> Iterator[None]:
    """What must survive a power failure is written to the disk at once; no test here can tell, and it is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield
