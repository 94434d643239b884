"""The page's frame and its pieces: one file, without scripts, whose images lie in it."""

import base64
import html
import io
from datetime import UTC, datetime

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_QUALITY = 82  # of JPEG
_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; color: #222; max-width: 1240px; margin: 2em auto; padding: 0 1em }}
h1, p, figcaption, td {{ overflow-wrap: anywhere }} h1 {{ font-size: 26px }}
img {{ max-width: 100% }} h2 {{ margin: 1.5em 0 .3em }} progress {{ width: 100%; height: 1.2em }}
.warning {{ background: #fff0f0; border-left: 4px solid #e6194b; padding: .3em 1em }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)) }}
figure {{ margin: 0 }} figcaption {{ font-size: 13px; color: #555; padding: 0 1em 1em }}
th {{ text-align: left; padding: 0 1.5em 0 0; font-size: 13px }}
td {{ padding: 0 1.5em 0 0; font: 13px monospace; vertical-align: top }}
table {{ display: block; overflow-x: auto }}
.row {{ display: grid; grid-template-columns: 1fr 5fr 5fr; gap: 0 1.5em; margin: 0 0 .4em; align-items: end }}
.two {{ grid-template-columns: 1fr 2fr 2fr }}
.maps {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 1em }}
.maps img {{ width: 100%; border: 1px solid #ccc; box-sizing: border-box }}
.row + .row h4 {{ display: none }} h4 {{ margin: 0; font-weight: normal; font-size: 13px }}
.tiles {{ display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: 4px }}
.row img {{ width: 100%; display: block; box-sizing: border-box }} .same img {{ border: 3px solid #f58231 }}
.row figcaption {{ padding: 0; font-size: 11px; line-height: 1.3; text-align: center }}
@media (max-width: 800px) {{
  .row, .two {{ grid-template-columns: 1fr; border-top: 1px solid #ccc; padding: .6em 0 }}
  .row + .row h4 {{ display: block }} .query {{ width: 45% }}
}}
</style></head><body>
<h1>{title}</h1>
{body}
<p>Written {now}.</p>
</body></html>
"""


def document(title: str, body: str) -> str:
    """The page; `body` is HTML, `title` is not."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return _HTML.format(title=html.escape(title), body=body, now=now)


def inline(image: bytes, kind: str, alt: str, title: str = "") -> str:
    """An `img` with its bytes; `title` shows under the mouse."""
    hint = f' title="{html.escape(title)}"' if title else ""
    encoded = base64.b64encode(image).decode()
    return f'<img alt="{html.escape(alt)}"{hint} src="data:image/{kind};base64,{encoded}">'


def photo(pixels: UInt8[np.ndarray, "h w 3"], alt: str, title: str = "") -> str:
    """The same of pixels, as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return inline(buffer.getvalue(), "jpeg", alt, title)


def tile(image: str, text: str, css: str = "") -> str:
    """An image with a line below it."""
    return f"<figure{f' class={css}' if css else ''}>{image}<figcaption>{html.escape(text)}</figcaption></figure>"


def before_and_after(query: str, before: list[str], after: list[str], css: str = "row") -> str:
    """A row: the query, then tiles before and after training; on a narrow screen below each other."""
    sides = "".join(
        f"<div><h4>{name}</h4><div class=tiles>{''.join(tiles)}</div></div>"
        for name, tiles in (("before training", before), ("after", after))
    )
    return f'<div class="{css}">{query}{sides}</div>'
