"""Lines on photos that cannot teach: from which share on, and with which way out."""

import re

import pytest

from tests.small import small_config
from univip_jax.config import to_spec
from univip_jax.data.quality import photo_warnings
from univip_jax.views import ViewSpec


def manifest(proposals="selective_search", without_box=0, sides=None, min_side=64, search_mode="fast", **stats):
    """Of 1,000 photos of 480 px that differ, but for what is given."""
    return {
        "num_records": 1000,
        "settings": {"proposals": proposals, "min_side": min_side, "search_mode": search_mode},
        "proposals": {"boxes_a_photo": {"from": [0, 1], "counts": [without_box, 1000 - without_box]}},
        "photo_stats": {
            "num_distinct": 1000,
            "num_copies": 0,
            "largest_group": 1,
            "largest_group_first": [],
            "num_uniform": 0,
            "uniform_first": [],
            "shorter_sides_px": sides or {"480": 1000},
            "smallest_first": ["s.jpg"],
            **stats,
        },
    }


def views(**fields):
    config = small_config("unread")
    config.views.scene_size = 224
    config.views.update(fields)
    return to_spec(ViewSpec, config, "views")


COPIES = {
    "num_copies": 11,
    "num_distinct": 995,
    "largest_group": 3,
    "largest_group_first": ["a\n.jpg", "b.jpg", "c.jpg"],
}


@pytest.mark.parametrize(
    ("given", "expected"),
    {
        "nothing": ({}, []),
        "few copies": (COPIES | {"num_copies": 10}, []),
        "copies": (COPIES, ["11 of 1000 photos are copies .* 995 photos are distinct; .* has 3 .first: 'a.n.jpg', 'b"]),
        "few uniform": ({"num_uniform": 10}, []),
        "uniform": ({"num_uniform": 11, "uniform_first": ["u.jpg"]}, ["11 of 1000 photos are uniform.*first: 'u.jpg'"]),
        "few small": ({"sides": {"63": 100, "64": 900}}, []),
        "small": (
            {"sides": {"9": 1, "63": 100, "64": 899}},
            ["101 of .*--min_side=64 px .*: 9 px.*, or give --min_side=32$"],
        ),
        "all small": ({"sides": {"30": 1000}, "without_box": 1000}, ["1000 of .*no box fits.*take larger photos$"]),
        "few without": ({"without_box": 200}, []),
        "without": (
            {"without_box": 201},
            ["201 of 1000 photos have no box: .*with --min_side=32 or --search_mode=quality$"],
        ),
        "both": (
            {"without_box": 600, "sides": {"20": 300, "480": 700}},
            ["300 of 1000 photos are too small", "300 of 1000 photos have no box"],
        ),
        "tiny boxes asked for": (
            {"without_box": 201, "min_side": 8, "search_mode": "quality", "sides": {"15": 101, "16": 899}},
            ["101 of 1000 photos are too small, .* below 16 px .*photos$", "201 of .* no box: .*; take other photos$"],
        ),
        "naive": (
            {"without_box": 201, "proposals": "naive"},
            ["201 of 1000 photos have no box: .* with --min_side=32 or --proposals=selective_search$"],
        ),
        "none asked for": ({"without_box": 1000, "proposals": "none"}, []),
        "small, none asked for": (
            {"without_box": 1000, "proposals": "none", "sides": {"20": 1000}},
            ["1000 of 1000 photos are too small.*: training enlarges their crops"],
        ),
        "not annotated": (
            {"without_box": 201, "proposals": "annotated"},
            ["201 of 1000 photos have no box: .* again with --proposals=selective_search$"],
        ),
    }.values(),
)
def test_lines_at_preparation(given, expected):
    lines = photo_warnings(manifest(**given))
    assert len(lines) == len(expected) and all("\n" not in line for line in lines)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.search(pattern, line), line


@pytest.mark.parametrize(
    ("given", "fields", "expected"),
    [
        ({"sides": {"223": 101, "224": 899}}, {}, ["101 of 1000 .* below views.scene_size=224 px .*scene_size=192$"]),
        ({"sides": {"223": 101, "224": 899}}, {"scene_size": 223}, []),
        ({"sides": {"20": 1000}}, {}, ["1000 of 1000 photos are too small.*take larger photos$"]),
        (
            {"sides": {"20": 900, "480": 100}, "without_box": 920},
            {"scene_size": 16},
            ["920 of 1000 photos have no box: .*; take other photos$"],
        ),
        (
            {"sides": {"40": 900, "480": 100}, "without_box": 920},
            {"scene_size": 16},
            ["920 of 1000 photos have no box: .*again with --min_side=32$"],
        ),
        ({"without_box": 201}, {}, ["201 of 1000 photos have no box: training takes random crops"]),
        ({"without_box": 1000, "proposals": "none"}, {}, ["1000 of .*again with --proposals=selective_search$"]),
        ({"without_box": 1000, "proposals": "none"}, {"proposals": "naive"}, []),
        ({"without_box": 1000}, {"overlap": False, "num_instances": 0}, []),
    ],
)
def test_lines_of_a_training(given, fields, expected):
    lines = photo_warnings(manifest(**given), views(**fields))
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.search(pattern, line), line


@pytest.mark.parametrize("of_training", [False, True])
def test_a_manifest_of_before_tells_only_what_it_counts(of_training):
    old = manifest(without_box=500)
    del old["photo_stats"]
    (line,) = photo_warnings(old, views() if of_training else None)
    assert line.startswith("500 of 1000 photos have no box")
    assert photo_warnings({"num_records": 1000, "settings": {}}) == []
