"""From a folder of photos to trained weights and a page, in one call that may be interrupted anywhere."""

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_prep.inputs import Request
from data_prep.prepare import prepare
from data_prep.record import Settings
from univip_jax.common.errors import TransientError, UserError
from univip_jax.common.files import at, expand, held, remove_tree, write_whole
from univip_jax.data.records import MANIFEST, read_manifest
from univip_jax.evaluate.before_after import judge_before_after, open_few
from univip_jax.evaluate.in_training import make_evaluator
from univip_jax.own import budget, recipe
from univip_jax.plan import make_plan
from univip_jax.run.compiled import cache_compiled
from univip_jax.run.folder import read_config, read_photo_warnings
from univip_jax.run.log import duration
from univip_jax.run.pretraining import open_run, train
from univip_jax.sharding import make_mesh
from univip_jax.weights.encoder import load_encoder
from univip_jax.weights.warm_start import open_warm_start, starting_encoder

PLAN, DATA, RUN = "pretrain.json", "data", "run"
_CONFIG = "configs/common.py"
_MAX_SIDE, _MIN_SIDE, _MAX_BOXES = 640, 64, 100  # px, px: data_prep's own, but that camera photos are shrunk
_PAGE_PHOTOS = 200
_ENDING = 30.0  # s of export and of drawing the page
_A_PHOTO = 5  # that the page shows: its pictures, before and after, take as long as so many images of a step


class Asked(NamedTuple):
    """What a run of this command belongs to."""

    images: list[str]
    annotations: list[str]
    hours: float
    init: str
    backbone: str
    scene_size: int


def pretrain(
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    hours: float = 8.0,
    init: str | Path | None = None,
    backbone: str | None = None,
    annotations: str | Path | Sequence[str | Path] = (),
    scene_size: int = 0,
    labelled: str | None = None,
) -> Path | None:
    """Prepares the photos, chooses, trains, exports and reports in `out`; the same call goes on after anything.

    Args:
      images: folders, zip or tar files; or the folder of a data set that `python -m data_prep` made.
      hours: for all of it.
      init: a file of weights or a run to start from.
      backbone, scene_size: chosen by the number of photos and the device where they are not given.
      annotations: COCO json, which tells how good the proposals are.
      labelled: a set of labelled photos, as evaluations take it, judged before and after.

    Returns the page; None where SIGTERM stopped the training, which is saved.

    Raises UserError for what a user can put right; TransientError where another process works in `out`.
    """
    began, out = time.monotonic(), at(expand(str(out)))
    asked = Asked(
        _paths(images),
        _paths(annotations),
        float(hours),
        "" if init in (None, "none") else expand(str(init)),
        backbone or "",
        scene_size,
    )
    if not asked.hours > 0:
        raise UserError(f"hours={hours} must be above 0, as --hours=8")
    if 0 < scene_size < 32:
        raise UserError(f"scene_size={scene_size} must be at least 32 px, or 0 to have it chosen")
    if labelled:
        open_few(labelled := expand(labelled))  # what is wrong with it is told before hours of training
    with held(out):
        plan = _read_plan(out, asked)
        if plan is None:
            mesh, warm = make_mesh(), _weights(asked.init)
            # What cannot be is told before hours of preparation, as for a million photos.
            make_plan(_config(_recipe(asked, 10**6, 10**6, warm, mesh).fields | {"num_steps": 0}), 10**6)
            plan = _choose(asked, out, _prepared(asked, out), warm, mesh, began)
            write_whole(out / PLAN, json.dumps(plan, indent=2) + "\n")
        else:
            print(f"plan      {out / PLAN} of an earlier start")
        print(f"same by   {_command(plan, out)}", flush=True)
        cache_compiled(run := out / RUN)
        if train(_config(plan["fields"]), run, make_evaluator, open_warm_start):
            return None
        weights, page = _export(run, out), _report(run, labelled)
        took = f"; this start took {duration(time.monotonic() - began)}, {duration(3600 * asked.hours)} were asked for"
        print(f"weights   {weights}\npage      {page}{took}")
        return page


def _paths(given: str | Path | Sequence[str | Path]) -> list[str]:
    return [expand(str(path)) for path in ([given] if isinstance(given, str | Path) else given)]


def _read_plan(out: Path, asked: Asked) -> dict[str, Any] | None:
    """The stored plan; UserError where it is of other arguments, or damaged."""
    path = out / PLAN
    if not path.exists():
        return None
    try:
        plan = json.loads(path.read_text())
        before = Asked(**plan["asked"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): choose another --out") from error
    for name, old, new in zip(Asked._fields, before, asked, strict=True):
        if old != new:
            raise UserError(f"{out} was begun with {name}={old}, not {new}: give that again, or choose another --out")
    return plan


def _prepared(asked: Asked, out: Path) -> Path:
    """The folder of the data set, which is made unless it is one already."""
    if len(asked.images) == 1 and (at(asked.images[0]) / MANIFEST).is_file():
        if asked.annotations:
            raise UserError(f"{asked.images[0]} is prepared already: leave --annotations out")
        return at(asked.images[0])
    settings = Settings("selective_search", 256, _MIN_SIDE, _MAX_BOXES, max_side=_MAX_SIDE)
    flags = [f"--images={path}" for path in asked.images] + [f"--annotations={path}" for path in asked.annotations]
    line = shlex.join(["python", "-m", "data_prep", *flags, f"--out={out / DATA}", f"--max_side={_MAX_SIDE}"])
    print(f"prepare   {line}", flush=True)
    print(prepare(Request(out / DATA, settings, asked.images, asked.annotations)), flush=True)
    return out / DATA


def _weights(init: str) -> recipe.Fields | None:
    """The fields that say what network `init` holds; None: training starts from zero."""
    if not init:
        return None
    net = load_encoder(init).backbone
    return {"init": init, "model.backbone": net.variant, "model.width": net.width, "model.stem": net.stem}


def _recipe(asked: Asked, num_photos: int, distinct: int, warm: recipe.Fields | None, mesh: Mesh) -> recipe.Recipe:
    return recipe.choose(
        num_photos,
        distinct,
        warm=warm,
        backbone=asked.backbone or None,
        scene_size=asked.scene_size,
        platform=mesh.devices.flat[0].platform,
        num_devices=mesh.size,
    )


def _choose(
    asked: Asked, out: Path, data: Path, warm: recipe.Fields | None, mesh: Mesh, began: float
) -> dict[str, Any]:
    """The plan, printed: what suits the photos, what fits the device, and what fits the hours."""
    manifest = read_manifest(data)
    num_photos = manifest["num_records"]
    distinct = manifest.get("photo_stats", {}).get("num_distinct", num_photos)
    chosen = _recipe(asked, num_photos, distinct, warm, mesh)
    fixed = chosen.fields | {"data.train": str(data), "num_epochs": float(chosen.most_epochs)}
    print(f"photos    {num_photos} in {data}, {distinct} distinct")
    if distinct < recipe.FEW:
        way = "judge by --labelled=DIR whether it helps" if warm else "start from a public checkpoint by --init=FILE"
        print(f"warning   {distinct} distinct photos are few: a network learns them by heart; add photos, or {way}")
    print(f"recipe    {'; '.join(chosen.reasons)}\ncompiling the train step ...", flush=True)
    make = lambda batch: make_plan(_config(fixed | {"batch_size": batch}), num_photos)  # noqa: E731
    plan, needed, limit = budget.fit_batch(make, chosen.batch_size, mesh)
    gib = f"{needed / 2**30:.2f} of {limit / 2**30:.1f} GiB of the device by the compiled step"
    why = "" if plan.batch_size == chosen.batch_size else f"; {chosen.batch_size} do not fit"
    print(f"batch     {plan.batch_size} images: {gib}{why}", flush=True)
    opened = open_run(_config(fixed | {"batch_size": plan.batch_size}), out / RUN, None, open_warm_start)
    step_seconds, compile_seconds = budget.time_steps(opened)
    spent = time.monotonic() - began
    page = _ENDING + _A_PHOTO * min(_PAGE_PHOTOS, num_photos) * step_seconds / plan.batch_size
    left = 3600 * asked.hours - spent - page - compile_seconds
    fields = fixed | {"batch_size": plan.batch_size}
    fields |= recipe.schedule(chosen, num_photos, plan.batch_size, left, step_seconds, asked.hours)
    del fields["num_epochs"]
    steps, training = fields["num_steps"], fields["num_steps"] * step_seconds + compile_seconds
    print(
        f"speed     {plan.batch_size / step_seconds:.1f} images/s, measured on the first steps\n"
        f"length    {steps} steps, {steps * plan.batch_size / num_photos:.1f} epochs (at most {chosen.most_epochs}); "
        f"lr {fields['optimizer.lr']} for a batch of 256, ema.base {fields['ema.base']}\n"
        f"time      {duration(spent)} so far, training {duration(training)}, export and page {duration(page)}: "
        f"{duration(spent + training + page)} of {duration(3600 * asked.hours)}"
    )
    measured = {"step_seconds": step_seconds, "predicted_seconds": spent + training + page}
    return {"asked": asked._asdict(), "fields": fields, "measured": measured}


def _config(fields: recipe.Fields) -> ConfigDict:
    """configs/common.py with these fields."""
    try:
        from configs import common  # late: an installed package has no configs
    except ModuleNotFoundError as error:
        raise UserError(f"{_CONFIG} is not here: run in a checkout of univip_jax, whose configs are used") from error
    config = common.get_config()
    config.update_from_flattened_dict(fields)
    return config


def _command(plan: dict[str, Any], out: Path) -> str:
    """The command line that trains the same."""
    fields = [f"--config.{name}={value}" for name, value in plan["fields"].items()]
    return shlex.join(["python", "main.py", f"--config={_CONFIG}", f"--workdir={out / RUN}", *fields])


def _export(run: Path, out: Path) -> Path:
    """The backbone as a file under torchvision's names; under ours where a stem of weights fits no other library."""
    from univip_jax.export.__main__ import export

    kind = "torchvision" if read_config(run).model.stem == "imagenet" else "safetensors"
    path = out / "backbone.safetensors"
    if path.exists():
        return path
    # Of an interrupted export, whose file itself comes last.
    for leftover in (path.with_name(f"{path.name}.md"), path.with_name(f"{path.name}.parity.json")):
        leftover.unlink(missing_ok=True)
    for made in out.glob(f".{path.name}-*"):
        remove_tree(made)
    export(run, kind, path, step=None, results=[], licence=None)
    return path


def _report(run: Path, labelled: str | None) -> Path:
    from univip_jax.report.page import write_report

    if labelled:
        try:
            judge_before_after(run, labelled, before=starting_encoder(run), after=load_encoder(run))
        except TransientError:
            raise
        except UserError as error:  # the page is worth having without it
            print(f"warning   not judged by {labelled}: {error}")
    page, warnings = write_report(run, photos=_PAGE_PHOTOS)
    for line in warnings[len(read_photo_warnings(run)) :]:  # those of the photos were told at the start
        print(f"warning   {line}")
    return page
