"""A folder of photos for the tests of data preparation."""

import pytest

from tests.data_prep.painted import paint


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory):
    """20 photos in nested folders, of which one is damaged: three shards of 8, 8 and 4."""
    root = tmp_path_factory.mktemp("photos")
    for seed in range(20):
        folder = root / ("deep/er" if seed % 3 else "")
        folder.mkdir(parents=True, exist_ok=True)
        paint(seed).save(folder / f"{seed:02d}.jpg", quality=90)
    damaged = root / "deep/er/10.jpg"
    damaged.write_bytes(damaged.read_bytes()[:900])
    return root
