"""Dialects of the images in COCO's json, and of ids and names; see `dialects`."""

from tests.data_prep.dialects import BOX, MASKED, NO_BOX, RUNS, Dialect, annotation, ids, image, more, named

TWICE = {"id": 30, "file_name": "0.jpg", "height": 50, "width": 100}
OF_30 = {"id": 300, "image_id": 30, "category_id": 4, "bbox": [1, 2, 3, 4], "area": 12}

OF_IMAGES = {
    "ids 7, 7.0, \"7\", \"007\"; `image_id` a file name": Dialect(
        "one id",
        [
            (ids(int, str), {}, None),
            (ids(str, int), {}, None),
            (ids(float, int), {}, None),
            (ids("{}.0".format, int), {}, None),
            (ids(int, "{:03}".format), {}, None),
            (ids("{:03}".format, int), {}, None),
            (ids("a{}".format, "a{} ".format), {}, None),
            (ids(int, lambda image_id: f"{image_id - 7}.jpg"), {}, None),
        ],
    ),
    "`image_id` missing, null, unknown": Dialect(
        "the annotation is left out",
        [
            *[
                (annotation(image_id=value), NO_BOX, "1 annotation without a usable image_id left out (first: 70)")
                for value in (..., None, [7], {}, float("nan"), "")
            ],
            *[
                (annotation(image_id=value), NO_BOX, "1 annotation of unknown images left out (first: 70)")
                for value in (70, "x", 7.5, "0.png")
            ],
        ],
    ),
    "an image without an id": Dialect(
        "used; nothing is annotated on it", [(image(id=...), NO_BOX, "1 image without an id, to which no annotation")],
    ),
    "one file name under two ids": Dialect(
        "all their annotations; left out where the sizes differ",
        [
            (
                more(images=[TWICE], annotations=[OF_30]), {"x/0.jpg": [BOX, [1, 2, 3, 4]]},
                "1 file name under several ids, whose annotations are put together (first: '0.jpg')",
            ),
            (
                more(images=[TWICE | {"file_name": "\\0.jpg", "height": None}], annotations=[OF_30]),
                {"x/0.jpg": [BOX, [1, 2, 3, 4]]}, "1 file name under several ids, whose annotations",
            ),
            (
                more(images=[TWICE | {"height": 60}], annotations=[OF_30]), {"x/0.jpg": None},
                "1 file name under several ids with different sizes left out (first: '0.jpg')",
            ),
            (more(images=[TWICE | {"id": 7}]), {}, None),
        ],
    ),
    "one id under two file names": Dialect(
        "both images and their annotations are left out",
        [
            (
                more(images=[TWICE | {"id": "7", "file_name": "9.jpg"}]), {"x/0.jpg": None},
                "2 images left out because another image has the same id and another file name (first: 7)",
            ),
            (
                more(images=[TWICE | {"id": 7, "file_name": "1.jpg"}]), {"x/0.jpg": None, "x/1.jpg": None},
                "1 annotation of an id that several images have left out (first: 70)",
            ),
            (
                lambda json: [
                    change(json)
                    for change in (more(images=[TWICE | {"id": 7, "file_name": "9"}]), annotation(image_id="0.jpg"))
                ],
                {"x/0.jpg": None}, "1 annotation of an id that several images have left out (first: 70)",
            ),
        ],
    ),
    "`file_name` missing; `path`, `coco_url` or another URL": Dialect(
        "its path",
        [
            (image(file_name=..., **{by: value}), {}, "1 image without file_name named by their path or URL (first: 7)")
            for by, value in {
                "coco_url": "http://images.cocodataset.org/train2017/0.jpg",
                "path": "D:\\set\\0.jpg",
                "url": "https://host/0.jpg?size=9",
            }.items()
        ]
        + [(image(file_name="s3://bucket/0.jpg"), {}, None)],
    ),
    "no name at all, or no object": Dialect(
        "the image, or annotation, is left out",
        [
            (image(file_name=...), {"x/0.jpg": None}, "1 image without a file name left out (first: 7)"),
            (image(file_name=""), {"x/0.jpg": None}, "1 image without a file name left out (first: 7)"),
            (image(file_name=5), {"x/0.jpg": None}, "1 image without a file name left out (first: 7)"),
            (more(images=[None]), {}, "1 image without a file name left out (first: 'number 3')"),
            (more(annotations=["x"]), {}, "1 annotation without a usable image_id left out (first: 'number 3')"),
        ],
    ),
    "names with backslashes, a prefix, NFD, other letter case, no suffix": Dialect(
        "matched, see above",
        [
            (named("images\\0.jpg", "1.jpg", "images\\x\\2.jpg"), {}, "1 photo matched by the file name alone"),
            (named(*[f"/data/coco/images/x/{i}.jpg" for i in range(3)]), {}, None),
            (named("0.JPG", "1", "./2.jpg"), {}, None),
        ],
    ),
    "`height`, `width` missing, null, 0, -1, a text; only one of them": Dialect(
        "unknown: as large as its run lengths, or the photo",
        [
            (
                image(height=height, width=width), {"x/0.jpg": {"size": (0, 0)}},
                "1 image without a usable size, taken to be as large as its masks in run lengths, or the photo",
            )
            for height, width in [
                (..., ...), (None, None), (0, 0), (-1, -1), ("x", "y"), (50, None), (0, 99), ([], {}),
            ]
        ]
        + [
            (
                lambda json: [
                    change(json)
                    for change in (image(height=None), annotation(segmentation={"counts": RUNS, "size": [50, 100]}))
                ],
                MASKED, "1 image without a usable size",
            ),
        ],
    ),
    "size as encoded, boxes on the upright photo (Label Studio)": Dialect(
        "boxes that leave the size and fit it turned tell",
        [(annotation(bbox=[5, 50, 9, 40]), {"x/0.jpg": [[5, 50, 9, 40]]}, "1 image whose boxes leave the stated", 6)],
    ),
    "photos or images without a match; names that fit several": Dialect(
        "counted and named, nothing is guessed",
        [
            *[
                (named("0.jpg", "1.jpg", "5.jpg"), {"x/2.jpg": None}, line)
                for line in (
                    "1 image without a photo here (first: '5.jpg')",
                    "1 photo without an image in the json (first: 'x/2.jpg')",
                )
            ],
            (
                named("a/0.jpg", "1.jpg", "b/0.jpg"), {"x/0.jpg": None, "x/2.jpg": None},
                "1 photo left without annotations because several images or photos fit equally well (first: 'x/0.jpg')",
            ),
        ],
    ),
}  # fmt: skip
