"""COCO's json as people have it: by dialect of its annotations, what docs/data.md says, and what must come of examples.

An example is (change of the json, what differs from the untouched json, beginning of the line that tells it, EXIF
orientation of the photos). What differs: {photo: boxes}, or {photo: {"labels" | "crowds" | "polygons" | "size":
value}}; None: not annotated.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as rle

IDS = ["x/0.jpg", "x/1.jpg", "x/2.jpg"]
BOX = [10, 20, 30, 10]
POLYGON = [10, 20, 40, 20, 40, 30]
AROUND = [5, 6, 20, 10]  # the box around TALL
TALL = [5, 6, 25, 6, 25, 16]
NO_BOX = {"x/0.jpg": []}


class Dialect(NamedTuple):
    """A row of the table in docs/data.md."""

    happens: str
    examples: list[tuple]


def contents():
    """Three images with one annotation each; the ids are 7, 8, 9 and 70, 80, 90."""
    return {
        "images": [{"id": 7 + i, "file_name": f"{i}.jpg", "height": 50, "width": 100} for i in range(3)],
        "annotations": [
            {
                "id": 70 + 10 * i,
                "image_id": 7 + i,
                "category_id": 3,
                "bbox": BOX,
                "area": 150,
                "iscrowd": 0,
                "segmentation": [POLYGON],
            }
            for i in range(3)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": "4", "name": "dog"}],
    }


def annotation(**changes):
    """Changes the first annotation; ... removes."""
    return lambda json: _change(json["annotations"][0], changes)


def image(**changes):
    """Changes the first image; ... removes."""
    return lambda json: _change(json["images"][0], changes)


def _change(row, changes):
    row |= changes
    for name in [name for name, value in row.items() if value is ...]:
        del row[name]


def categories(listed):
    """Lists other categories; ... removes."""
    return lambda json: _change(json, {"categories": listed})


def more(**parts):
    """Adds to the json's lists."""
    return lambda json: [json[name].extend(rows) for name, rows in parts.items()]


def ids(of_image, of_annotation):
    """Writes all ids anew."""

    def change(json):
        for row in json["images"]:
            row["id"] = of_image(row["id"])
        for row in json["annotations"]:
            row["image_id"] = of_annotation(row["image_id"])

    return change


def named(*names):
    """Names the images."""
    return lambda json: [row.update(file_name=name) for row, name in zip(json["images"], names, strict=True)]


ODD_BOXES = [
    ...,
    None,
    [],
    "40 30 20 10",
    ["40", "30", "x", ""],
    [1, 2, 3],
    [1, 2, 3, 4, 0.9],
    {"x": 1},
    [1, 2, None, 4],
]
ODD_BOXES += [[float("nan"), 2, 3, 4], [1, 2, 3, float("inf")], [[1, 2], [3, 4]], 5, [9, 9, -3, 4], [1e308] * 4]
NO_BOX_LINE = "1 annotation without a usable box left out (first: 70)"
NO_AREA_LINE = "1 annotation with a box of no area left out (first: 70)"
AROUND_LINE = "1 annotation without a usable box given the box around the outline (first: 70)"
UNKNOWN = "1 annotation of an unknown category kept with label -1 (first: 70)"
OUTLINE = "1 annotation whose outline is no polygon and no mask, or not all of it, stored without that part (first: 70)"
AREA = "1 annotation without a usable area given the mask's, or the box's (first: 70)"
LOST = {"x/0.jpg": {"polygons": []}}
TRIANGLE = int(rle.area(rle.merge(rle.frPyObjects([POLYGON], 50, 100))))
RUNS = [520, 10, *[40, 10] * 29, 3020]  # BOX filled, in a photo of 50 x 100: columns of 10 px, 40 apart
FILLED = np.zeros([50, 100], np.uint8, order="F")
FILLED[20:30, 10:40] = 1
LETTERS = rle.encode(FILLED)["counts"]
MASKED = {"x/0.jpg": {"polygons": [], "masks": [LETTERS]}}


def table_in(path: Path, head: str) -> dict[str, str]:
    """The first two columns of the table with this head in a Markdown file."""
    lines = path.read_text().split(head, 1)[1].splitlines()[2:]
    rows = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return dict([cell.strip() for cell in row.strip("|").split("|")] for row in rows)


OF_ANNOTATIONS = {
    "`bbox` missing, null, a text, not finite, of another length or negative size": Dialect(
        "the outline's box, or left out",
        [
            *[
                (annotation(bbox=box, segmentation=[]), NO_BOX, NO_BOX_LINE)
                for box in ODD_BOXES
            ],
            (
                annotation(bbox=None, segmentation=[TALL]), {"x/0.jpg": [AROUND]},
                AROUND_LINE,
            ),
            (annotation(bbox=None, id=...), {"x/0.jpg": [BOX]}, "1 annotation without a usable box given"),
        ],
    ),
    "`bbox` of no area": Dialect(
        "the same",
        [
            (annotation(bbox=[1, 2, 0, 4], segmentation=[]), NO_BOX, NO_AREA_LINE),
            (annotation(bbox=[1, 2, 3, "0"], segmentation=[TALL]), {"x/0.jpg": [AROUND]}, AROUND_LINE),
        ],
    ),
    "`bbox` outside the photo": Dialect(
        "left out; counted at the end", [(annotation(bbox=[500, 20, 30, 10]), NO_BOX, None)],
    ),
    "numbers as text": Dialect(
        "read as numbers",
        [
            (annotation(bbox=["10", "20.0", 30, " 10"]), {}, None),
            (annotation(category_id="3"), {}, None),
            (annotation(segmentation=[list(map(str, POLYGON))]), {}, None),
            (image(height="50", width="100"), {}, None),
        ],
    ),
    "`category_id` a category's name": Dialect(
        "its id",
        [
            (annotation(category_id="dog"), {"x/0.jpg": {"labels": [4]}}, None),
            (annotation(category_id=4.0), {"x/0.jpg": {"labels": [4]}}, None),
        ],
    ),
    "`category_id` missing, null, unknown": Dialect(
        "the box is kept with label -1",
        [
            (annotation(category_id=value), {"x/0.jpg": {"labels": [-1]}}, UNKNOWN)
            for value in (..., None, "horse", 1.5, [3], {}, True, 2**70)
        ],
    ),
    "`segmentation` one flat list, or of pairs": Dialect(
        "one polygon",
        [
            (annotation(segmentation=POLYGON), {}, None),
            (annotation(segmentation=[[10, 20], [40, 20], [40, 30]]), {}, None),
            (annotation(segmentation=[[[10, 20], [40, 20], [40, 30]]]), {}, None),
        ],
    ),
    "`segmentation` of odd length, a text; run lengths that do not fill their size": Dialect(
        "left out, the box kept",
        [
            (annotation(segmentation=value), LOST, OUTLINE)
            for value in (
                [[1, 2, 3]], "rle", {"counts": [9], "size": [50, 100]}, [["x"] * 6], 5, [None], [[1] * 4],
                {"counts": [5000]}, {"counts": [5000], "size": [50, 100, 1]}, {"counts": [], "size": [50, 100]},
                {"counts": [0, 5001, -1], "size": [50, 100]}, {"counts": [10.5, 4989.5], "size": [50, 100]},
                {"counts": [5000], "size": [-50, -100]}, {"counts": "X>oo", "size": [50, 100]},
                {"counts": "PoP", "size": [50, 100]}, {"counts": "\u00e9", "size": [50, 100]},
                {"counts": [2**40], "size": [2**20, 2**20]}, {"counts": None, "size": [50, 100]},
            )
        ]
        + [
            (annotation(segmentation=[[1, 2, 3], POLYGON]), {}, OUTLINE),
            (annotation(segmentation=[[1, 2, 3, 4, 5, float("nan")], POLYGON]), {}, OUTLINE),
            (annotation(segmentation=[{"counts": "a"}, POLYGON]), {}, OUTLINE),
            *[(annotation(segmentation=value), LOST, None) for value in (None, [], [[]], ...)],
            (
                annotation(segmentation={"counts": [9], "size": [50, 100]}, iscrowd=1),
                {"x/0.jpg": {"polygons": [], "crowds": [True]}}, OUTLINE,
            ),
        ],
    ),
    "`segmentation` in run lengths; numbers as text, a text of COCO's letters": Dialect(
        "stored as COCO's letters",
        [
            (annotation(segmentation={"counts": counts, "size": size}), MASKED, None)
            for counts, size in (
                (RUNS, [50, 100]), (list(map(str, RUNS)), ["50", "100"]), ([float(run) for run in RUNS], [50.0, 100]),
                (LETTERS.decode(), [50, 100]),
            )
        ]
        + [
            (
                annotation(segmentation={"counts": RUNS, "size": [50, 100]}, iscrowd=1),
                {"x/0.jpg": MASKED["x/0.jpg"] | {"crowds": [True]}}, None,
            ),
            (annotation(segmentation={"counts": RUNS, "size": [50, 100]}, bbox=None), MASKED, AROUND_LINE),
            (annotation(segmentation=[{"counts": RUNS, "size": [50, 100]}]), MASKED, None),
        ],
    ),
    "run lengths of another size than the image's": Dialect(
        "left out, the box kept",
        [
            (
                annotation(segmentation={"counts": [1010, 10, 3980], "size": size}), LOST,
                "1 annotation with a mask of another size than the image's stored without it (first: 70)",
            )
            for size in ([100, 50], [500, 10])
        ],
    ),
    "`area` missing, 0, of no use": Dialect(
        "the outline's, else the box's",
        [
            (annotation(area=value), {"x/0.jpg": {"areas": [TRIANGLE]}}, AREA)
            for value in (..., None, 0, -5, "x", float("nan"), [1])
        ]
        + [
            (annotation(area="70"), {"x/0.jpg": {"areas": [70]}}, None),
            (annotation(area=None, segmentation=[]), {"x/0.jpg": {"polygons": [], "areas": [300]}}, AREA),
            (
                annotation(area=None, segmentation={"counts": RUNS, "size": [50, 100]}),
                {"x/0.jpg": MASKED["x/0.jpg"] | {"areas": [300]}}, AREA,
            ),
        ],
    ),
    "`categories` without a name": Dialect(
        "its number is the name",
        [
            (categories(value), {}, "1 category id without a name named by the number (first: 3)")
            for value in (..., None, [], 5, [{"id": 3}], [{"id": 3, "name": ""}], ["cat"])
        ],
    ),
    "`categories` with an id that is no number, or again": Dialect(
        "left out",
        [
            (
                categories([{"id": 3, "name": "cat"}, {"id": value, "name": "horse"}]), {},
                "1 element of categories without a whole number as id",
            )
            for value in (None, "horse", 1.5, -1, 3, "3")
        ],
    ),
    "`category_id` that is not in `categories`": Dialect(
        "stored; detection leaves the object out",
        [(annotation(category_id=9), {"x/0.jpg": {"labels": [9]}}, "1 annotation of a category that is not listed")],
    ),
    "`iscrowd` missing, null, false, \"0\"; true, \"1\"": Dialect(
        "0; 1",
        [
            *[(annotation(iscrowd=value), {}, None) for value in (..., None, False, "0", 0.0, "", "False")],
            *[(annotation(iscrowd=value), {"x/0.jpg": {"crowds": [True]}}, None) for value in (True, "1", 1.0, "true")],
            (annotation(iscrowd="maybe"), {}, "1 annotation with an unknown iscrowd taken as no crowd (first: 70)"),
            (annotation(iscrowd=[]), {}, "1 annotation with an unknown iscrowd taken as no crowd (first: 70)"),
        ],
    ),
}  # fmt: skip
