"""`proposals.html`: a data set's statistics as plots, and 32 of its photos with their boxes, in one file."""

import base64
import colorsys
import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from univip_jax.common.files import write_whole
from univip_jax.data import boxes, records
from univip_jax.data.index import evenly_spread
from univip_jax.data.photos import FORMATS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "proposals.html"
_NUM_PHOTOS, _COLUMNS = 32, 4
_CELL, _GAP = 300, 8  # px
_PAPER, _INK = "#ffffff", "#222222"
_PLOTS = {
    "boxes_a_photo": "photos by their number of boxes",
    "covered_percent": "photos by the share that boxes of at most half its area cover, %",
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
<p>Each proposal has its own colour; annotated objects are white with a black rim.</p>
<img alt="photos with boxes" src="data:image/jpeg;base64,{sheet}">
</body></html>
"""


def write_page(root: Path, manifest: dict[str, Any], summary: list[str]) -> None:
    """Writes `proposals.html` of the finished shards that the manifest names, with the summary's lines.

    Raises UserError: a shard cannot be read, or the page cannot be written.
    """
    settings = ", ".join(f"{name} {value}" for name, value in manifest.get("settings", {}).items())
    photos = _photos(root, manifest)
    page = _HTML.format(
        num_records=manifest["num_records"],
        lines="".join(f"<li>{html.escape(line)}</li>" for line in summary),
        settings=html.escape(settings),
        plots=_inline(draw_plots(manifest["proposals"]).savefig),
        num_shown=len(photos),
        sheet=_inline(lambda buffer: draw_sheet(photos).save(buffer, "JPEG", quality=85)),
    )
    write_whole(root / PAGE, page, sync=True)


def _photos(root: Path, manifest: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """32 parsed records, evenly spaced over the data set, or all where there are fewer."""
    wanted = evenly_spread(manifest["num_records"], _NUM_PHOTOS).tolist()
    photos, first = [], 0
    for entry in manifest["shards"]:
        if here := [index - first for index in wanted if first <= index < first + entry["num_records"]]:
            shard = records.read_sidecar(root, entry)
            photos += [records.parse(records.read_record(str(shard.path), shard.offsets[index])) for index in here]
        first += entry["num_records"]
    return [{key: value.numpy() for key, value in photo.items()} for photo in photos]


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
        sheet.paste(_draw_photo(photo), (x, y + line))
    return sheet


def _draw_photo(photo: dict[str, np.ndarray]) -> Image.Image:
    # Neighbours in the list get distant hues.
    hues = [colorsys.hsv_to_rgb(number * 0.618 % 1, 0.9, 1) for number in range(len(photo["proposals"]))]
    colors = [tuple(round(255 * value) for value in hue) for hue in hues]
    outlines = [(box, color, 1) for box, color in zip(photo["proposals"], colors, strict=True)]
    outlines += [(box, *rim) for box in photo["objects"] for rim in (("black", 4), ("white", 2))]
    return boxes.draw(Image.open(io.BytesIO(photo["encoded"]), formats=FORMATS).convert("RGB"), _CELL, outlines)


def draw_plots(proposals: dict[str, Any]) -> "Figure":
    """The histograms of the manifest's `proposals` as bar charts, two by two."""
    from matplotlib.figure import Figure  # late: workers need none, and `quiet` comes first

    figure = Figure(figsize=(12, 6), dpi=100, layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, _PLOTS.items(), strict=True):
        edges, counts = proposals[name]["from"], proposals[name]["counts"]
        bars = axes.bar(range(len(edges)), counts, width=0.9, align="edge", color="#4363d8")
        axes.bar_label(bars, [f"{count / sum(counts):.0%}" if count else "" for count in counts], fontsize=8)
        axes.set_xticks(range(len(edges)), [f"{edge:g}" for edge in edges], fontsize=8)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_title(title, fontsize=10, loc="left")
    return figure


def _inline(save: Callable[[io.BytesIO], object]) -> str:
    """What `save` writes, as base64."""
    buffer = io.BytesIO()
    save(buffer)
    return base64.b64encode(buffer.getvalue()).decode()
