"""Photos to a finished data set, step by step."""

import time
from pathlib import Path

from data_prep import manifest as manifests
from data_prep import page, runners, shards, writing
from data_prep.inputs import Request, load
from univip_jax.common.errors import UserError
from univip_jax.data.host import available_cores
from univip_jax.data.photos.sources import passed_over_line


def prepare(request: Request) -> str:
    """Prepares the data set, or resumes an interrupted run, and returns a summary for people.

    Raises UserError: see `inputs`, `manifest`, `writing` and `runners`.
    """
    loaded = load(request)
    description = manifests.describe(loaded, request.settings)
    if (manifest := manifests.finished(request.out, description)) is not None:
        done = f"{request.out} is already done: {manifest['num_records']} records"
        lines = [done, *manifests.warnings(manifest), *manifests.not_for_detection(request.out, manifest, loaded)]
        return "\n".join([*lines, _next_command(request.out)])
    plan = shards.plan_shards(request.out, loaded.photos, loaded.annotations, request.settings, loaded.imported)
    manifests.ensure_folder(request.out, plan)
    with writing.locked(request.out, shared=request.num_tasks > 1):
        writing.remove_leftovers(request.out)
        for line in loaded.lines:
            print(line, flush=True)
        sidecars, pace = _fill(request, plan)
        if num_missing := sidecars.count(None):
            return _task_summary(request, plan, sidecars, num_missing)
        known = loaded.findings if loaded.categories is None else loaded.findings | {"categories": loaded.categories}
        manifest = manifests.compose(request.out, sidecars, description | known, request.max_rejected)
        summary = manifests.summary(manifest)
        page.write_page(request.out, manifest, summary)
        manifests.write(request.out, manifest)
    head = f"{manifest['num_records']} records in {request.out}"
    lines = [head, *summary, pace, f"plots and photos: {request.out / page.PAGE}"]
    return "\n".join(filter(None, [*lines, passed_over_line(loaded.passed_over), _next_command(request.out)]))


def _fill(request: Request, plan: list[shards.ShardSpec]) -> tuple[list[dict | None], str]:
    """Does this task's unfinished shards.

    Returns:
        The sidecar of each shard, None where another task has not done its own yet; and the pace in words.
    """
    started, num_workers = time.monotonic(), request.num_workers or available_cores()
    paths = [spec.path for spec in plan]
    sidecars = dict(zip(paths, shards.all_finished(plan), strict=True))
    mine = [spec for spec in plan[request.task_index :: request.num_tasks] if sidecars[spec.path] is None]
    if num_done := len(plan) - list(sidecars.values()).count(None):
        print(f"{num_done} of {len(plan)} shards are done already", flush=True)
    num_photos = sum(len(spec.photos) for spec in mine)
    if mine and request.beam_options is not None:
        from data_prep import beam  # late: Apache Beam is not among the requirements

        beam.run(shards.process_shard, mine, request.out, request.beam_options, num_workers)
    elif mine:
        runners.run(shards.process_shard, mine, num_photos, num_workers)
    # Read again: the disk shows which shards are done, by this task or another.
    if not_yet := [spec for spec in plan if sidecars[spec.path] is None]:
        sidecars |= zip((spec.path for spec in not_yet), shards.all_finished(not_yet), strict=True)
    if lost := [spec.path for spec in mine if sidecars[spec.path] is None]:
        raise UserError(f"{lost[0]} is not there after the run: --out must be one folder that all workers see")
    seconds = time.monotonic() - started
    cores = max(1, min(num_workers, len(mine)))
    where = "by Beam" if request.beam_options is not None else f"on {cores} core{'s' * (cores > 1)}"
    rate = "" if request.beam_options is not None else f": {num_photos / seconds / cores:.2f} photos/s/core"
    return list(sidecars.values()), f"{num_photos} photos in {seconds:.1f} s {where}{rate}"


def _task_summary(request: Request, plan: list[shards.ShardSpec], sidecars: list[dict | None], num_missing: int) -> str:
    """The summary of a task that ends before another one."""
    num_photos = sum(len(spec.photos) for spec, sidecar in zip(plan, sidecars, strict=True) if sidecar is None)
    return (
        f"task {request.task_index} of {request.num_tasks} is done; {num_missing} of {len(plan)} shards "
        f"({num_photos} photos) are left to other tasks: the last of them writes the manifest. Any task may run again"
    )


def _next_command(out: Path) -> str:
    return f"next: python main.py --config=configs/coco.py --config.data.train={out} --workdir=RUN_DIR"
