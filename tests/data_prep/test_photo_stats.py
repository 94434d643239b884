"""Photos that cannot teach are counted: equal ones, uniform ones, small ones; against counts by hand."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from data_prep import check, page, photo_stats, shards
from data_prep.inputs import Request
from data_prep.prepare import prepare
from tests.data_prep.painted import paint
from univip_jax.data import records

SETTINGS = shards.Settings("naive", 64, 64, 20)
GREY = np.full([90, 120, 3], 77, np.uint8)


def encoded(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def looks(pixels, name="a"):
    return photo_stats.of_photo(name, pixels)


def ramp(height, width, most):
    """Grey that rises from 0 to `most` along the rows."""
    rows = np.linspace(0, most, height).round().astype(np.uint8)
    return np.broadcast_to(rows[:, None, None], [height, width, 3])


def test_equal_pixels_have_one_digest_whatever_holds_them():
    pixels = np.array(paint(0))
    jpeg = encoded(pixels, "JPEG")
    as_read = [photo_stats.pixels_of(b) for b in (jpeg, encoded(pixels, "JPEG", comment=b"taken yesterday"))]
    assert looks(as_read[0]).digest == looks(as_read[1]).digest != looks(pixels).digest
    as_read = [photo_stats.pixels_of(encoded(pixels, "PNG", compress_level=level)) for level in (1, 9)]
    assert looks(as_read[0]).digest == looks(as_read[1]).digest == looks(pixels[:, ::-1][:, ::-1]).digest
    assert len(looks(pixels).digest) == 16


@pytest.mark.parametrize("shape", [(1, 1), (90, 120), (1000, 400), (1, 10_000), (10_000, 1)])
def test_other_pixels_or_another_shape_have_another_digest(shape):
    pixels = np.random.default_rng(0).integers(0, 256, [*shape, 3], dtype=np.uint8)
    other = pixels.copy()
    other[-8:, -1] ^= 1  # 8 rows of one column, as narrow as a change in a JPEG's block
    digests = {looks(photo).digest for photo in (pixels, other, pixels.reshape(shape[1], shape[0], 3))}
    assert len(digests) == (2 if shape[0] == shape[1] else 3)


@pytest.mark.parametrize(
    ("pixels", "is_uniform"),
    {
        "one colour": (GREY, True),
        "the noise of a JPEG": (photo_stats.pixels_of(encoded(GREY, "JPEG", quality=20)), True),
        "a std of 1.4": (ramp(256, 8, 5), True),
        "a std of 2.3": (ramp(256, 8, 8), False),
        "one pixel": (GREY[:1, :1], True),
        "colours of one luminance": (np.where(np.arange(120)[:, None] < 60, [76, 76, 76], [255, 0, 0])[None], False),
        "stripes": (np.repeat(np.arange(1024) % 8 == 3, 24).reshape(1024, 8, 3) * np.uint8(255), False),
        "a photo": (np.array(paint(0)), False),
    }.values(),
)
def test_uniform_photos_vary_by_less_than_2_of_255_in_each_colour(pixels, is_uniform):
    assert (pixels.std((0, 1)).max() < 2) == is_uniform
    assert looks(pixels.astype(np.uint8)).is_uniform == is_uniform


def test_statistics_of_a_data_set_by_hand():
    photos = [
        photo_stats.Looks(name, digest, name in "cf", side)
        for name, digest, side in zip("abcdefgh", "xyxzyxwx", (30, 9, 30, 500, 9, 30, 4000, 30), strict=True)
    ]
    expected = {
        "num_distinct": 4,
        "num_copies": 6,  # of x and y
        "largest_group": 4,
        "largest_group_first": ["a", "c", "f"],
        "num_uniform": 2,
        "uniform_first": ["c", "f"],
        "shorter_sides_px": {"9": 2, "30": 4, "500": 1, "4000": 1},
        "smallest_first": ["b", "e", "a"],
    }
    for cut in (8, 3, 0):
        assert (
            photo_stats.of_dataset([photo_stats.of_shard(photos[:cut]), photo_stats.of_shard(photos[cut:])]) == expected
        )
    assert json.loads(json.dumps(expected)) == expected  # as it stands in the manifest
    distinct = photo_stats.of_dataset([photo_stats.of_shard(photos[:2])])
    assert distinct["largest_group"] == 1 and distinct["largest_group_first"] == []


def write(folder, count, draw):
    folder.mkdir()
    for index in range(count):
        Image.fromarray(draw(index)).save(folder / f"{index:03d}.png")


def photo(index, height=96, width=120):
    return np.array(paint(index, width, height))


# Photos drawn by index, and the beginnings of the lines that tell of them.
HOPELESS = {
    "copies": (
        lambda index: photo(0),
        ["64 of 64 photos are copies of one (first: '000.png', '001.png', '002.png'): the network can only learn"],
    ),
    "half copies": (
        lambda index: photo(index % 2 * index),
        ["32 of 64 photos are copies of each other, 33 photos are distinct; the largest group has 32 (first: '000"],
    ),
    "pairs": (
        lambda index: photo(index // 2),
        ["64 of 64 photos are copies of each other, 32 photos are distinct; the largest group has 2 (first: '000"],
    ),
    "uniform": (
        lambda index: np.full([96, 120, 3], index, np.uint8),
        ["64 of 64 photos are uniform, of one colour (first: '000.png', '001.png', '002.png'): all their crops"],
    ),
    "small": (
        lambda index: np.random.default_rng(index).integers(0, 256, [3, 3, 3], dtype=np.uint8),
        ["64 of 64 photos are too small, their shorter side is below --min_side=64 px (the smallest: 3 px, "],
    ),
    "panoramas": (
        lambda index: np.random.default_rng(index).integers(0, 256, [1, 10_000, 3], dtype=np.uint8),
        ["64 of 64 photos are too small, their shorter side is below --min_side=64 px (the smallest: 1 px, "],
    ),
    "a fifth small": (
        lambda index: photo(index, 96 if index % 5 else 40),
        ["13 of 64 photos are too small, their shorter side is below --min_side=64 px (the smallest: 40 px, "],
    ),
    "good": (photo, []),
}


@pytest.mark.parametrize("kind", HOPELESS)
def test_photos_that_cannot_teach_are_told(tmp_path, kind):
    draw, expected = HOPELESS[kind]
    write(tmp_path / "photos", 64, draw)
    out = tmp_path / "out"
    told = [prepare(Request(out, SETTINGS, [tmp_path / "photos"], num_workers=1)) for _ in range(2)]  # and when done
    for summary in told:
        lines = [line for line in summary.splitlines() if line.startswith("warning: ")]
        assert [line[9 : 9 + len(start)] for line, start in zip(lines, expected, strict=True)] == expected
    html = (out / page.PAGE).read_text()
    assert html.count("<li>warning: ") == len(expected)
    manifest = records.read_manifest(out)
    assert check.check_dataset(out, 1) == (manifest, [], "")
    manifest["photo_stats"]["num_distinct"] += 1
    (out / "manifest.json").write_text(json.dumps(manifest))
    (problem,) = check.check_dataset(out, 1).problems
    assert "photo_stats num_distinct is" in problem


def test_data_sets_of_before_are_done_and_half_ones_resume_and_nothing_is_told(tmp_path):
    write(tmp_path / "photos", 20, lambda index: photo(0))
    out = tmp_path / "out"
    request = Request(out, SETTINGS, [tmp_path / "photos"], num_workers=1)
    prepare(request)
    shard = {path.name: path.read_bytes() for path in out.glob("*.tfrecord")}
    sidecars = sorted(out.glob("photos-*.json"))
    for path in [sidecars[0], out / "manifest.json"]:
        contents = json.loads(path.read_text())
        del contents["photo_stats"]
        path.write_text(json.dumps(contents))
    done = prepare(request)
    assert "already done: 20 records" in done and "warning" not in done
    assert check.check_dataset(out, 1).problems == []
    (out / "manifest.json").unlink()
    sidecars[2].unlink()
    sidecars[2].with_suffix(".tfrecord").unlink()
    assert "unfinished: 2 of 3 shards" in check.check_dataset(out, 1).progress
    resumed = prepare(request)
    assert "20 records in" in resumed and "warning" not in resumed
    assert "photo_stats" not in records.read_manifest(out)
    assert {path.name: path.read_bytes() for path in out.glob("*.tfrecord")} == shard
