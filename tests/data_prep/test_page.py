"""The page: statistics, plots and photos in one file, boxes at their places."""

import base64
import io
import re

import numpy as np
from PIL import Image

from data_prep import page, shards
from data_prep.inputs import Request
from data_prep.prepare import prepare


def images(html):
    found = re.findall(r'src="data:image/(png|jpeg);base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for _, data in found]


def test_page_stands_alone_and_shows_every_photo_of_a_small_set(photo_folder, tmp_path):
    settings = shards.Settings("naive", 0, 16, 20)
    summary = prepare(Request(tmp_path, settings, [photo_folder], num_workers=1))
    html = (tmp_path / page.PAGE).read_text()
    assert str(tmp_path / page.PAGE) in summary
    lines = [line for line in summary.splitlines() if line.startswith(("boxes per photo", "photos: 19 of 20"))]
    assert len(lines) == 2 and all(line in html for line in lines)
    assert "http" not in html and "19 photos, evenly spaced" in html
    plots, sheet = images(html)
    assert plots.size == (1200, 600) and sheet.width == 4 * 308 - 8 and sheet.height == 5 * 326 - 8


def test_boxes_are_drawn_at_their_places():
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
    histograms = {name: {"from": [0, 1, 2], "counts": [1, index, 0]} for index, name in enumerate(page._PLOTS, 1)}
    figure = page.draw_plots(histograms)
    assert [[bar.get_height() for bar in axes.patches] for axes in figure.axes] == [[1, i, 0] for i in (1, 2, 3, 4)]
    assert [text.get_text() for text in figure.axes[2].texts] == ["25%", "75%", ""]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1", "2"]
