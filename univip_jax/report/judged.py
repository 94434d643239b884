"""Whether labelled photos are told apart better after pre-training than before: a part of the page."""

import html
from pathlib import Path

from univip_jax.evaluate.before_after import BEFORE_AFTER, NAMES
from univip_jax.evaluate.results import read_results

_HTML = """<h2>Is it better for you?</h2>
{sentences}
<table><tr><th>top-1 of {photos} photos, %<th>before training<th>after step {step}<th>difference{rows}</table>
<p>{photos} labelled photos of {classes} classes ({name}; before training: {before}). Each is judged by the others:
k-NN asks its {k} nearest ones, the logistic probe all of the other {others} of {folds} folds. Who always says the
largest class is right in {largest:.1f} %. Brackets are 95 % intervals by drawing the photos anew.</p>
<p>A difference counts where its bracket lies on one side of 0; of networks that are equally good, about one in 20 seems
to differ all the same. Four times the photos make a bracket half as wide. Photos of one scene, or one photo in several
sizes, answer for each other and make both scores too high.</p>
{left_out}"""


def draw_judged(run: Path) -> tuple[str, list[str]]:
    """The part of the page, empty where nobody judged the run by labelled photos, and what is wrong with its file."""
    results = read_results(run, BEFORE_AFTER)
    if results is None:
        path = run / BEFORE_AFTER
        return "", [f"{path} is damaged: delete it, and judge the run again"] if path.exists() else []
    rows = "".join(
        f"<tr><td>{title}{''.join(f'<td>{_cell(results[name], side)}' for side in ('before', 'after', 'difference'))}"
        for name, title in NAMES.items()
    )
    page = _HTML.format(
        sentences="".join(f"<p><b>{html.escape(results[name]['sentence'])}</b></p>" for name in NAMES),
        rows=rows,
        photos=results["photos"],
        step=results["step"],
        classes=len(results["photos_of_class"]),
        name=html.escape(results["labelled"]["name"]),
        before=html.escape(results["before"]["source"]),
        k=results["k"],
        others=results["folds"] - 1,
        folds=results["folds"],
        largest=results["largest_class"],
        left_out="".join(f"<p>{html.escape(line)}</p>" for line in results["left_out"]),
    )
    return page, []


def _cell(score: dict, side: str) -> str:
    sign = "+" if side == "difference" else ""
    top1, low, high = (f"{score[side][name]:{sign}.1f}" for name in ("top1", "low", "high"))
    return f"{top1} [{low}, {high}]"
