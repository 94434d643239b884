"""The charts of a run: which metrics they show, and what is healthy."""

from typing import NamedTuple

from ml_collections import ConfigDict

from univip_jax.report.charts import Level, Series, draw_lines
from univip_jax.transport import OWN_MASS

_BAD_STEPS = "train/bad_steps"


class Curves(NamedTuple):
    """A chart: the label and metric of each line."""

    title: str
    metrics: dict[str, str]
    scale: str = "linear"
    level: Level | None = None
    note: str = ""  # below it


class Drawn(NamedTuple):
    """A chart that is drawn."""

    title: str
    svg: bytes
    note: str


_TERMS = {
    "loss": "train/loss",
    "scene": "train/loss_scene",
    "scene-instance": "train/loss_scene_instance",
    "instance": "train/loss_instance",
    "RPN: class": "train/loss_rpn_class",
    "RPN: box": "train/loss_rpn_box",
    "class": "train/loss_class",
    "box": "train/loss_box",
    "mask": "train/loss_mask",
}
_CURVES = (
    Curves("loss and its terms", _TERMS),
    Curves("gradient norm", {"": "train/grad_norm"}, "log"),
    Curves(
        "std of features (0 is collapse)",
        {"backbone": "features/std", "target projection": "train/feature_std"},
        "from_zero",
    ),
    Curves(
        "effective rank of features (1 is collapse)",
        {"training batch": "features/effective_rank", "labelled photos": "knn/effective_rank"},
        "from_zero",
    ),
    Curves("top-1 on labelled photos, %", {"k-NN": "knn/top1", "logistic probe": "probe/top1"}),
    Curves("learning rate", {"": "train/learning_rate"}, "from_zero"),
    Curves("images per second", {"": "train/images_per_second"}, "from_zero"),
    Curves("skipped steps (not finite)", {"": _BAD_STEPS}, "from_zero"),
)


def _of_the_plan(config: ConfigDict) -> list[Curves]:
    """What the instance term does (`losses.plan_metrics`)."""
    count, epsilon = config.views.num_instances, config.transport.epsilon
    curves = [
        Curves(
            "transport plan, shares of its mass",
            {"on the diagonal": "plan/diagonal", "moved by the marginals": "plan/marginal_tv"},
            "from_zero",
            Level("diagonal if uniform (1/K)", 1 / max(count, 1)),
            "Healthy: the diagonal, which pulls an instance to itself, is above 0.5 and rising; the marginals move "
            "less than 0.2.",
        ),
        Curves(
            "cosines of instances",
            {"with itself": "plan/cosine_same", "with the others": "plan/cosine_other"},
            note=f"Healthy: a gap of more than {2 * epsilon:g} (twice transport.epsilon), or the plan cannot tell them "
            "apart.",
        ),
    ]
    if config.transport.plan_mass == OWN_MASS:  # any other is constant
        note = "Healthy: above 0. It is K times the mean affinity of an instance with its scenes, and paces the term."
        curves.append(Curves("mass of the transport plan", {"": "plan/mass"}, "from_zero", note=note))
    return curves


def draw_curves(lines: list[dict], config: ConfigDict) -> list[Drawn]:
    """The charts for which the lines of `metrics.jsonl` hold values."""
    drawn = []
    for curves in _all(config):
        series = {label: points for label, name in curves.metrics.items() if (points := _points(lines, name))}
        if chart := _draw(curves, curves.title, series):
            drawn.append(chart)
    return drawn


def draw_compared(logs: dict[str, list[dict]], config: ConfigDict) -> list[Drawn]:
    """A chart for each metric, with a line for each of the named runs that has it; `config` is of any of them.

    Without levels: a level is of a run's own config.
    """
    drawn = []
    for curves in _all(config):
        for label, metric in curves.metrics.items():
            title = ": ".join(filter(None, (curves.title, label if len(curves.metrics) > 1 else "")))
            if chart := _draw(
                curves._replace(level=None), title, {name: _points(lines, metric) for name, lines in logs.items()}
            ):
                drawn.append(chart)
    return drawn


def _all(config: ConfigDict) -> list[Curves]:
    return [*_CURVES, *(_of_the_plan(config) if "transport" in config else ())]


def _points(lines: list[dict], metric: str) -> list[tuple[int, float]]:
    return [(line["step"], line[metric]) for line in lines if metric in line]


def _draw(curves: Curves, title: str, series: Series) -> Drawn | None:
    """None without a value, and where no step was skipped. An empty line keeps its colour."""
    values = [value for points in series.values() for _, value in points]
    if not values or (_BAD_STEPS in curves.metrics.values() and not any(values)):
        return None
    return Drawn(title, draw_lines(title, series, curves.scale, curves.level), curves.note)
