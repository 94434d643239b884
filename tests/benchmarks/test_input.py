"""The input benchmark measures the work that training does, and reads its own figures right."""

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks import input as host
from tests.small import small_config
from univip_jax.config import to_spec
from univip_jax.data.index import Index
from univip_jax.data.pipeline import make_batches, preview
from univip_jax.data.records import open_dataset
from univip_jax.views import ViewSpec

TIMES = {
    host.LIMIT: np.array([2.0, 4.0, 2.0]),
    **{name: np.array([1.0, 2.0, 3.0]) * place for place, name in enumerate(host.STAGES, 1)},
    host.SHIPPED: np.array([16.0, 16.0, 20.0]),
}


def test_the_last_stage_makes_the_photos_of_training(data, monkeypatch):
    monkeypatch.setattr(host, "BATCH", 8)
    dataset = open_dataset(data)
    index, spec = Index(dataset, 0, 8), to_spec(ViewSpec, small_config(data), "views")
    batch = next(make_batches(dataset, index, spec, num_threads=1))
    found = zip(*host.do_until("canvas", dataset, index, spec)(), strict=True)
    for expected, column in zip(batch, found, strict=True):
        np.testing.assert_array_equal(expected, np.stack(column))


def test_pytorch_gets_the_files_and_boxes_of_training(data, monkeypatch):
    monkeypatch.setattr(host, "BATCH", 8)
    dataset = open_dataset(data)
    index, spec = Index(dataset, 0, 8), to_spec(ViewSpec, small_config(data), "views")
    photos = host.first_photos(dataset, index, spec, 8)
    shown = preview(dataset, index, spec, 0, 8)
    for photo, expected in zip(photos, shown, strict=True):
        np.testing.assert_array_equal(Image.open(io.BytesIO(photo.encoded)).convert("RGB"), expected.image)
        np.testing.assert_array_equal(photo.scenes, expected.geometry.scenes)
        np.testing.assert_array_equal(photo.instances, expected.geometry.instances)


def test_a_way_is_compared_with_the_limit_of_its_own_round():
    """16 / 2, 16 / 4 and 20 / 2; 1000 / 16 photos a second."""
    shipped, torch = host.table_of_ways(TIMES, "no torch here")[-2:]
    assert shipped == "| the shipped pipeline | 16.00 (16.00 to 20.00) | 62 | 8.00 (4.00 to 10.00) |"
    assert torch == "| PyTorch, PIL and torchvision | not measured: no torch here | | |"


def test_a_stage_is_what_it_adds_to_those_before():
    """Four stages of 2 ms in the middle round; the batch adds 12, 8 and 8: its median is the largest."""
    *rows, _, bottleneck = host.table_of_stages(TIMES)[2:]
    assert rows[3] == "| canvas | 2.00 (1.00 to 3.00) | 12% |"
    assert rows[4] == "| order, batch, to NumPy | 8.00 (8.00 to 12.00) | 50% |"
    assert bottleneck == "The bottleneck: order, batch, to NumPy."


@pytest.mark.parametrize(("rate", "ms", "expected"), [(1000, 4, "4.0 cores"), (2260, 9.2, "20.8 cores")])
def test_cores_are_rate_times_time(rate, ms, expected):
    assert expected in host.cores(rate, ms)
