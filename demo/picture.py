"""UniVIP in one picture: a photo, its views, and the shares of a trained network's transport plan.

    python -m demo                                                      # trains the network
    python -m demo.picture --run=runs/demo/univip_0 --out=docs/univip.jpg

The photo is scikit-learn's china.jpg (danielbuechele, CC BY 2.0). Proposals, views and plan are the functions that
`data_prep` and the training step call. The README's picture is by the network of an earlier demo: today's, which saw
digits on paper alone, gives a nearly uniform plan on this photo.
"""

import io
from importlib.resources import files
from pathlib import Path

import jax
import numpy as np
from absl import flags
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from PIL import Image

from configs import coco
from data_prep import filters
from data_prep.selective_search import photo_generator, selective_search
from univip_jax.common.cli import define_path, run
from univip_jax.common.files import appearing, at
from univip_jax.config import to_spec
from univip_jax.data.pipeline import Preview, show
from univip_jax.plan import make_plan
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.folder import read_config
from univip_jax.run.plans import make_transport_plans
from univip_jax.sharding import make_mesh, replicated
from univip_jax.types import Batch, Geometry, Photos
from univip_jax.views import ViewSpec

_SEED = 2138  # of the views; chosen for a clear picture
_SCENES, _INSTANCES = ("#d7263d", "#2f6fed"), "#ffc400"


def draw_views(seed: int) -> Preview:
    """The views of china.jpg as `configs/coco.py` draws them: selective search, Algorithm 1, crops."""
    encoded = files("sklearn.datasets.images").joinpath("china.jpg").read_bytes()
    image = np.asarray(Image.open(io.BytesIO(encoded)))
    size = np.array([image.shape[:2]], np.int32)
    boxes = selective_search(image, 256, photo_generator(encoded))
    proposals = filters.keep(boxes, min_side=64, max_boxes=100) / np.tile(size, 2)
    draw = np.zeros((1, 2), np.int32)
    photos = Photos(image.reshape(1, len(image), -1), size, size, proposals[None].astype(np.float32), draw)
    return show(photos, to_spec(ViewSpec, coco.get_config(), "views"), seed)[0]


def plan_of(folder: Path, views: Batch) -> Float[np.ndarray, "K K"]:
    """Shares of the transport plan by a run's newest checkpoint, with running statistics and no augmentation."""
    config = read_config(folder)
    plan = make_plan(config, num_images=config.batch_size)  # the number of photos shapes schedules alone
    with Checkpoints(folder) as checkpoints:
        like = jax.eval_shape(plan.init_state)
        state, _ = checkpoints.restore(checkpoints.steps()[-1], like, replicated(make_mesh(jax.devices()[:1])))
    batch = jax.tree.map(lambda crops: crops[None], views)
    found = np.asarray(make_transport_plans(plan)(state, batch)[0])
    return found / found.sum()


def _show(axes: Axes, image: UInt8[np.ndarray, "H W 3"], color: str, text: str = "") -> None:
    """An image in a coloured frame, with a number or a word in its corner."""
    axes.imshow(image, interpolation="lanczos")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=color, linewidth=2)
    if text:
        axes.text(0.04, 0.94, text, transform=axes.transAxes, va="top", fontsize=8, weight="bold", bbox=_label(color))


def _label(color: str) -> dict:
    return {"boxstyle": "round,pad=0.15", "facecolor": color, "edgecolor": "none"}


def _draw_photo(axes: Axes, image: UInt8[np.ndarray, "H W 3"], geometry: Geometry) -> None:
    axes.imshow(image)
    axes.set_axis_off()
    height, width = image.shape[:2]

    def outline(box: Float[np.ndarray, "4"], **style: object) -> None:
        y0, x0, y1, x1 = box * [height, width, height, width]
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **{"fill": False, "linewidth": 2.2, **style}))

    outline(geometry.region, fill=True, facecolor="white", alpha=0.22)
    for box, color in zip(geometry.scenes, _SCENES, strict=True):
        outline(box, edgecolor=color)
    for number, box in enumerate(geometry.instances, start=1):
        outline(box, edgecolor=_INSTANCES, linewidth=1.8)
        y, x = box[:2] * [height, width] + 6
        axes.text(x, y, number, va="top", fontsize=8, weight="bold", bbox=_label(_INSTANCES))


def _draw_plan(part: SubFigure, instances: UInt8[np.ndarray, "K I I 3"], plan: Float[np.ndarray, "K K"]) -> None:
    """The plan as a heat map, the instances at the head of its rows and columns."""
    count = len(plan)
    cells = part.subplots(count + 1, count + 1, gridspec_kw={"hspace": 0.06, "wspace": 0.06})
    cells[0, 0].set_axis_off()
    cells[0, 0].text(1.0, 0.62, "target \N{RIGHTWARDS ARROW}", ha="right", fontsize=7, color="#444444")
    cells[0, 0].text(0.5, 0.1, "online \N{DOWNWARDS ARROW}", ha="center", fontsize=7, color="#444444")
    for number, instance in enumerate(instances, start=1):
        _show(cells[0, number], instance, _INSTANCES, str(number))
        _show(cells[number, 0], instance, _INSTANCES, str(number))
    for (row, column), mass in np.ndenumerate(plan):
        axes, share = cells[row + 1, column + 1], mass / plan.max()
        axes.set(xticks=[], yticks=[], facecolor=colormaps["Blues"](0.05 + 0.9 * share), box_aspect=1)
        axes.spines[:].set_visible(False)
        color = "white" if share > 0.5 else "#333"
        axes.text(0.5, 0.5, f"{mass:.2f}", ha="center", va="center", fontsize=9, color=color)


def draw(preview: Preview, plan: Float[np.ndarray, "K K"], path: Path, dpi: int) -> None:
    """Three columns: the photo with its boxes, the crops, the plan."""
    count = len(plan)
    figure = Figure(figsize=(10, 3.35), facecolor="white", layout="constrained")
    photo, crops, transport = figure.subfigures(1, 3, width_ratios=[4.55, 2.35, 3.1])
    photo.suptitle(f"Two scenes whose overlap holds K = {count} proposals", fontsize=9.5, weight="bold")
    crops.suptitle("Crops for the networks", fontsize=9.5, weight="bold")
    transport.suptitle("Transport plan of the instances (Eq. 7)", fontsize=9.5, weight="bold")
    _draw_photo(photo.subplots(), preview.image, preview.geometry)
    cells = crops.subplots(1 + (count + 1) // 2, 2, squeeze=False, height_ratios=[1.6] + [1] * ((count + 1) // 2))
    frames = [*_SCENES, *[_INSTANCES] * count]
    images = [*preview.views.scenes, *preview.views.instances]
    for axes in cells.flat[len(images) :]:
        axes.set_axis_off()
    for place, (image, color) in enumerate(zip(images, frames, strict=True)):
        _show(cells.flat[place], image, color, str(place - 1) if place > 1 else "")
    _draw_plan(transport, preview.views.instances, plan)
    with appearing(path) as tmp:
        figure.savefig(tmp, dpi=dpi, format=path.suffix[1:] or "png")


def _define_flags() -> None:
    define_path("run", "runs/demo/univip_0", "Folder of the run whose newest checkpoint gives the plan.")
    define_path("out", "docs/univip.jpg", "The picture: .jpg or .png.")


def _work() -> None:
    preview = draw_views(_SEED)
    plan = plan_of(at(flags.FLAGS.run), preview.views)
    draw(preview, plan, at(flags.FLAGS.out), dpi=150)
    print(f"{flags.FLAGS.out}; the plan:\n{plan.round(3)}")


if __name__ == "__main__":
    run("demo.picture", _define_flags, (), _work, interrupted="nothing was written")
