"""The page: figures, plots and photos in one file, the boxes where they are."""

import base64
import io
import re

import numpy as np
from PIL import Image

from data_prep import page, prepare, shards
from data_prep.inputs import Inputs


def images(html):
    found = re.findall(r'src="data:image/(png|jpeg);base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for _, data in found]


def test_the_page_stands_alone_and_shows_every_photo_of_a_small_set(photo_folder, tmp_path):
    settings = shards.Settings("naive", 0, 16, 20)
    said = prepare.prepare(prepare.Request(Inputs((photo_folder,)), tmp_path, settings, num_workers=1))
    html = (tmp_path / page.PAGE).read_text()
    assert str(tmp_path / page.PAGE) in said
    assert all(line in html for line in said.splitlines() if line.startswith(("boxes a photo", "photos: 19 of 20")))
    assert "http" not in html and "19 photos, evenly spaced" in html
    plots, sheet = images(html)
    assert plots.size == (1200, 520) and sheet.width == 4 * 308 - 8 and sheet.height == 5 * 326 - 8


def test_boxes_are_drawn_where_they_are():
    buffer = io.BytesIO()
    Image.new("RGB", (600, 300), "black").save(buffer, "PNG")
    photo = {
        "encoded": buffer.getvalue(),
        "id": "ä/\n東.jpg".encode(),
        "proposals": np.array([[0.0, 0.5, 1.0, 1.0]], np.float32),
        "objects": np.array([[0.2, 0.1, 0.8, 0.3]], np.float32),
    }
    pixels = np.asarray(page.draw_sheet([photo]))[18:168, :300].astype(int)  # 300 x 150 px, below the caption
    assert pixels[75, 150].tolist() == [255, 25, 25] and pixels[75, 225].tolist() == [0, 0, 0]  # rim, inside
    assert pixels[75, 30].tolist() == [255, 255, 255] and pixels[75, 60].tolist() == [0, 0, 0]


def test_bars_are_as_high_as_their_counts():
    histogram = {"from": [0, 1, 2], "counts": [1, 2, 0]}
    names = ("boxes_a_photo", "covered_percent", "sides_px", "aspects")
    pixels = np.asarray(page.draw_plots(dict.fromkeys(names, histogram)))[:260, :600]
    blue = (pixels == [67, 99, 216]).all(axis=-1).sum(axis=0)
    first, second, third = blue[40:200].max(), blue[215:380].max(), blue[400:560].max()
    assert third == 0 and first > 50 and abs(second - 2 * first) <= 2
