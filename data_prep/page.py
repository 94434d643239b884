"""`proposals.html`: the verdict on a data set in plots, and 32 of its photos with their boxes, in one file."""

import base64
import colorsys
import html
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from univip_jax.common.files import write_whole
from univip_jax.data import records

PAGE = "proposals.html"
_NUM_PHOTOS, _COLUMNS = 32, 4
_CELL, _GAP = 300, 8  # px
_PLOT_WIDTH, _PLOT_HEIGHT, _MARGIN = 600, 260, 34  # px
_PAPER, _INK, _FAINT, _BAR = "#ffffff", "#222222", "#888888", "#4363d8"
_PLOTS = {
    "boxes_a_photo": "photos by their number of boxes",
    "covered_percent": "photos by the share that boxes of at most half their size cover, %",
    "sides_px": "boxes by side (root of the area), px",
    "aspects": "boxes by width / height",
}
_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Proposals</title><style>
body {{ font: 15px/1.5 sans-serif; color: #222; max-width: 1240px; margin: 2em auto; padding: 0 1em }}
img {{ max-width: 100% }} h2 {{ margin: 1.5em 0 .3em }}
</style></head><body>
<h1>{num_records} photos and their proposals</h1>
<ul>{lines}</ul>
<p>Settings: {settings}</p>
<h2>Distributions</h2>
<img alt="four bar charts" src="data:image/png;base64,{plots}">
<h2>{num_shown} photos, evenly spaced</h2>
<p>Each box in its own colour; annotated objects, where given, in white with a black rim.</p>
<img alt="photos with boxes" src="data:image/jpeg;base64,{sheet}">
</body></html>
"""


def write_page(root: Path, manifest: dict[str, Any], said: list[str]) -> None:
    """Writes `proposals.html` of the finished shards that the manifest names; `said` is the verdict in words.

    Raises:
        UserError: a shard cannot be read, or the page not be written.
    """
    settings = ", ".join(f"{name} {value}" for name, value in manifest.get("settings", {}).items())
    photos = _photos(root, manifest)
    page = _HTML.format(
        num_records=manifest["num_records"],
        lines="".join(f"<li>{html.escape(line)}</li>" for line in said),
        settings=html.escape(settings),
        plots=_inline(draw_plots(manifest["proposals"]), "PNG"),
        num_shown=len(photos),
        sheet=_inline(draw_sheet(photos), "JPEG", quality=85),
    )
    write_whole(root / PAGE, page, sync=True)


def _photos(root: Path, manifest: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """32 records of the data set, evenly spaced, or all where there are fewer."""
    total = manifest["num_records"]
    num_shown = min(_NUM_PHOTOS, total)
    wanted = [(2 * i + 1) * total // (2 * num_shown) for i in range(num_shown)]
    photos, first = [], 0
    for entry in manifest["shards"]:
        here = [index - first for index in wanted if first <= index < first + entry["num_records"]]
        first += entry["num_records"]
        if here:
            shard = records.read_sidecar(root, entry)
            photos += [_read(shard, index) for index in here]
    return photos


def _read(shard: records.Shard, index: int) -> dict[str, np.ndarray]:
    with open(shard.path, "rb") as file:
        file.seek(shard.offsets[index])
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(4, 1)  # the length's checksum
        return {key: value.numpy() for key, value in records.parse(file.read(length)).items()}


def draw_sheet(photos: list[dict[str, np.ndarray]]) -> Image.Image:
    """Parsed records as a contact sheet, boxes drawn."""
    rows = -(-len(photos) // _COLUMNS)
    step, line = _CELL + _GAP, 18
    sheet = Image.new("RGB", (_COLUMNS * step - _GAP, rows * (step + line) - _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, photo in enumerate(photos):
        x, y = place % _COLUMNS * step, place // _COLUMNS * (step + line)
        name = "".join(letter if letter.isprintable() else "?" for letter in photo["id"].decode("utf-8", "replace"))
        caption = f"{len(photo['proposals'])} boxes  {name if len(name) <= 30 else '...' + name[-27:]}"
        draw.text((x, y), caption, fill=_INK, font=font)
        picture = _draw_photo(photo)
        sheet.paste(picture, (x, y + line))
    return sheet


def _draw_photo(photo: dict[str, np.ndarray]) -> Image.Image:
    picture = Image.open(io.BytesIO(photo["encoded"])).convert("RGB")
    picture.thumbnail((_CELL, _CELL), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    size = np.array([picture.height, picture.width] * 2) - 1

    def outline(box: np.ndarray, color: str | tuple[int, ...], width: int) -> None:
        y0, x0, y1, x1 = np.round(box * size).tolist()
        draw.rectangle([x0, y0, x1, y1], outline=color, width=width)

    for number, box in enumerate(photo["proposals"]):
        hue = number * 0.618 % 1  # neighbours in the list far apart on the circle of colours
        outline(box, tuple(round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.9, 1)), 1)
    for box in photo["objects"]:
        outline(box, "black", 4)
        outline(box, "white", 2)
    return picture


def draw_plots(proposals: dict[str, Any]) -> Image.Image:
    """The verdict's histograms, two by two."""
    picture = Image.new("RGB", (2 * _PLOT_WIDTH, 2 * _PLOT_HEIGHT), _PAPER)
    for place, (name, title) in enumerate(_PLOTS.items()):
        plot = _draw_bars(title, proposals[name]["from"], proposals[name]["counts"])
        picture.paste(plot, (place % 2 * _PLOT_WIDTH, place // 2 * _PLOT_HEIGHT))
    return picture


def _draw_bars(title: str, edges: list[float], counts: list[int]) -> Image.Image:
    plot = Image.new("RGB", (_PLOT_WIDTH, _PLOT_HEIGHT), _PAPER)
    draw, font = ImageDraw.Draw(plot), ImageFont.load_default(13)
    draw.text((_MARGIN, 6), title, fill=_INK, font=ImageFont.load_default(15))
    floor, ceiling = _PLOT_HEIGHT - _MARGIN, 52
    width = (_PLOT_WIDTH - 2 * _MARGIN) / len(edges)
    for place, (edge, count) in enumerate(zip(edges, counts, strict=True)):
        left, share = _MARGIN + place * width, count / max(1, sum(counts))
        top = floor - (floor - ceiling) * count / max(1, *counts)
        draw.rectangle([left + 2, top, left + width - 2, floor], fill=_BAR)
        draw.text((left + width / 2, top - 3), f"{share:.0%}" if count else "", _FAINT, font, "mb", align="center")
        draw.text((left, floor + 5), f"{edge:g}", _INK, font, "ma")
    draw.line([_MARGIN, floor, _PLOT_WIDTH - _MARGIN, floor], fill=_INK)
    return plot


def _inline(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()
