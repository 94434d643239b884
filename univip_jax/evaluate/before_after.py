"""Is a network better for some photos after pre-training than before? By a few labelled ones, without a test set.

Every photo is judged by the others: k-NN leaves it out, the logistic probe leaves its fold out. Both networks see the
same photos and folds, so the interval of the difference is of pairs.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from sklearn.model_selection import StratifiedKFold

from univip_jax.common.errors import UserError, shorten
from univip_jax.common.files import write_whole
from univip_jax.data.labelled.contents import read_contents
from univip_jax.data.labelled.sets import Labelled, open_labelled
from univip_jax.evaluate.features import extract
from univip_jax.evaluate.logistic import fit_logistic
from univip_jax.evaluate.neighbours import Neighbours, find_neighbours, vote
from univip_jax.evaluate.results import read_results
from univip_jax.types import Features
from univip_jax.weights.encoder import Encoder

BEFORE_AFTER = "before_after.json"  # in the run's folder
_MOST_NEIGHBOURS, _TEMPERATURE = 20, 0.07  # as configs/knn.py
_MOST_FOLDS, _INVERSE_L2 = 5, 1.0  # as configs/linear.py:protocol=logistic
_DRAWS = 2000
# Of draws, for an interval that holds the truth in 95 %: photos judge each other, which draws of their outcomes do not
# see. On 40 to 160 sets of Imagenette, 95 % of draws hold the mean difference in 92 to 94 %, 98 % in 95 to 98 %.
_MIDDLE = 98.0
# Added to each of the four outcomes of a photo before photos are drawn, as Agresti and Min (2005) do for pairs: the
# plain draws of 20 independent photos cover a true difference in 86 % of cases where these cover it in 97 %. Among
# photos that all agree, plain draws give an interval without width.
_PSEUDO = 0.5
_PROTOCOL = (
    f"each photo judged by the others: k-NN (cosine, temperature {_TEMPERATURE:g}) that leaves it out, and logistic "
    f"regression (C = {_INVERSE_L2:g}) that leaves its fold out; 95 % intervals from the middle "
    f"{_MIDDLE:g} % of {_DRAWS:,} paired bootstrap draws of photos, {_PSEUDO:g} photo added to each outcome"
)
NAMES = {"knn": "k-NN", "logistic": "Logistic probe"}


class FewLabelled(NamedTuple):
    """A labelled set, and which of its photos can be judged by the others."""

    labelled: Labelled
    chosen: Bool[np.ndarray, " M"]  # of the set's photos
    labels: Int[np.ndarray, " N"]  # of the chosen, numbers of `classes`
    classes: tuple[str, ...]  # with two photos or more
    left_out: tuple[str, ...]  # what is not chosen, and why: a line each


def open_few(name: str) -> FewLabelled:
    """Opens the labelled set `name`, as `open_labelled`, and reads the bytes of all its photos.

    Later copies of the same bytes are left out, then classes with a single photo.

    Raises UserError as `open_labelled` does, where photos show several classes, or fewer than two classes remain.
    """
    labelled = open_labelled(name)
    if labelled.is_multi_label:
        raise UserError(f"photos of {name} show several classes, but each needs one: give a folder for each class")
    contents = read_contents(labelled)
    first = {digest: place for place, digest in reversed(list(enumerate(contents.digests)))}
    chosen = np.array([first[digest] == place for place, digest in enumerate(contents.digests)])
    left_out = []
    if copies := [contents.names[place] for place in np.flatnonzero(~chosen)]:
        left_out.append(
            f"{len(copies)} of {len(chosen)} labelled photos have the same bytes as an earlier one and are left out, "
            f"since copies answer for each other: {shorten(copies)}"
        )
    count = np.bincount(contents.labels[chosen], minlength=len(labelled.classes))
    if alone := [labelled.classes[label] for label in np.flatnonzero(count < 2)]:
        left_out.append(
            f"{len(alone)} of {len(count)} classes have fewer than two photos and are left out, since each photo is "
            f"judged by others of its class: {shorten(alone)}"
        )
    chosen &= count[contents.labels] > 1
    kept, labels = np.unique(contents.labels[chosen], return_inverse=True)
    if len(kept) < 2:
        more = f" ({'; '.join(left_out)})" if left_out else ""
        raise UserError(f"{name} has {len(kept)} classes of two photos or more, at least 2 are needed{more}: add some")
    return FewLabelled(labelled, chosen, labels, tuple(labelled.classes[label] for label in kept), tuple(left_out))


def judge_before_after(
    run: Path, labelled: str, *, before: Encoder, after: Encoder, batch_size: int = 64, seed: int = 0
) -> dict:
    """Judges both encoders by the labelled set, on centre crops of `after.image_size` px, and prints it in sentences.

    The results are `before_after.json` in `run`; where they are there with the same settings, nothing is computed.
    Scores and intervals are top-1 in percent.

    Raises UserError as `open_few` does, and where a photo or the features of one cannot be used.
    """
    few = open_few(labelled)
    settings = {"protocol": _PROTOCOL, "labelled": few.labelled.fingerprint, "image_size": after.image_size}
    settings |= {"before": before.sha256(), "after": after.sha256(), "seed": seed}
    results = read_results(run, BEFORE_AFTER)
    if (results or {}).get("settings") != settings:
        results = _judge(few, before, after, batch_size, seed) | {"settings": settings}
        write_whole(run / BEFORE_AFTER, json.dumps(results, indent=2) + "\n")
    print("\n".join([*results["left_out"], *(results[score]["sentence"] for score in NAMES)]), flush=True)
    return results


def _judge(few: FewLabelled, before: Encoder, after: Encoder, batch_size: int, seed: int) -> dict:
    sides = [_features(encoder, few, after.image_size, batch_size) for encoder in (before, after)]
    count = np.bincount(few.labels)
    k, folds = min(_MOST_NEIGHBOURS, int(count.min()) - 1), min(_MOST_FOLDS, int(count.min()))
    predict: dict[str, Callable[[Features], Int[np.ndarray, " N"]]] = {
        "knn": lambda features: leave_one_out(features, k),
        "logistic": lambda features: cross_validate(features, folds, seed),
    }
    scores = {}
    for name, predicted in predict.items():
        scores[name] = compare(*(predicted(features) == few.labels for features in sides), seed=seed)
        scores[name]["sentence"] = _sentence(NAMES[name], scores[name], len(few.labels))
    return {
        "protocol": _PROTOCOL,
        **scores,
        "photos": len(few.labels),
        "photos_of_class": dict(zip(few.classes, count.tolist(), strict=True)),
        "largest_class": 100 * float(count.max() / count.sum()),  # top-1 of one who always says its name
        "k": k,
        "folds": folds,
        "left_out": list(few.left_out),
        "labelled": few.labelled.describe(),
        "pretrained": after.source,
        "step": after.step,
        "before": {"source": before.source, "step": before.step},
        "started_from": after.started_from,
    }


def _features(encoder: Encoder, few: FewLabelled, image_size: int, batch_size: int) -> Features:
    features = extract(encoder, few.labelled, image_size, batch_size).features[few.chosen]
    if not np.isfinite(features).all():
        raise UserError(f"features of {encoder.source} are not finite: its weights are damaged; choose other ones")
    return Features(features, few.labels)


def leave_one_out(known: Features, k: int) -> Int[np.ndarray, " N"]:
    """The class of each photo by the vote of its k nearest others."""
    nearest = find_neighbours(known.features, known.features, k + 1)
    # The photo itself goes last, wherever it is; it is missing where k + 1 earlier ones are equal to it.
    others = np.argsort(nearest.index == np.arange(len(known.labels))[:, None], axis=1, kind="stable")[:, :k]
    nearest = Neighbours(*(np.take_along_axis(column, others, 1) for column in nearest))
    return vote(nearest, known.labels, temperature=_TEMPERATURE, num_classes=int(known.labels.max()) + 1)


def cross_validate(known: Features, folds: int, seed: int) -> Int[np.ndarray, " N"]:
    """The class of each photo by logistic regression on the other folds, which hold each class evenly."""
    predicted = np.empty_like(known.labels)
    for rest, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(known.features, known.labels):
        fitted = Features(known.features[rest], known.labels[rest])
        predicted[held_out] = fit_logistic(fitted, known.features[held_out], _INVERSE_L2).argmax(1)
    return predicted


def compare(before: Bool[np.ndarray, " N"], after: Bool[np.ndarray, " N"], *, seed: int) -> dict:
    """Percent right before and after, their difference, and the 95 % interval of each; `verdict` better, worse or open.

    Args:
      before, after: whether each photo was right.
    """
    # A photo has one of four outcomes: to draw photos with replacement is to draw how many have each.
    count = np.bincount(2 * after + before, minlength=4)
    total = len(before)
    chance = (count + _PSEUDO) / (total + 4 * _PSEUDO)
    drawn = np.random.Generator(np.random.Philox(seed)).multinomial(total, chance, size=_DRAWS)
    right = {"before": np.array([0, 1, 0, 1]), "after": np.array([0, 0, 1, 1]), "difference": np.array([0, -1, 1, 0])}
    scores = {name: _with_interval(count @ one, drawn @ one, total) for name, one in right.items()}
    low, high = scores["difference"]["low"], scores["difference"]["high"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "open"
    return scores | {"only_before": int(count[1]), "only_after": int(count[2]), "verdict": verdict}


def _with_interval(right: int, drawn: Int[np.ndarray, " draws"], total: int) -> dict[str, float]:
    low, high = np.percentile(drawn, [50 - _MIDDLE / 2, 50 + _MIDDLE / 2])
    return {name: 100 * float(value / total) for name, value in (("top1", right), ("low", low), ("high", high))}


def _sentence(name: str, score: dict, photos: int) -> str:
    before, after, change = score["before"]["top1"], score["after"]["top1"], score["difference"]
    verdict = score["verdict"] if score["verdict"] != "open" else f"no difference that these {photos} photos can show"
    interval = f"{change['low']:+.1f} to {change['high']:+.1f}"
    return f"{name} {before:.1f} -> {after:.1f} %, {change['top1']:+.1f} (95 %: {interval}): {verdict}"
