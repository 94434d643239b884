"""Photos to a finished data set, step by step."""

from data_prep import imported, page, runners, shards, writing
from data_prep import manifest as manifests
from data_prep.inputs import Request, load
from univip_jax.common.errors import UserError
from univip_jax.data.host import available_cores
from univip_jax.data.photos.sources import passed_over_line


def prepare(request: Request) -> str:
    """Prepares the data set, or resumes an interrupted run, and returns a summary for people.

    Raises UserError: see `inputs`, `manifest`, `writing` and `runners`.
    """
    out, loaded = request.out, load(request)
    next_command = f"next: python main.py --config=configs/coco.py --config.data.train={out} --workdir=RUN_DIR"
    description = manifests.describe(loaded, request.settings)
    if (manifest := manifests.finished(out, description)) is not None:
        return f"{out} is already done: {manifest['num_records']} records\n{next_command}"
    plan = shards.plan_shards(out, loaded.photos, loaded.annotations, request.settings, loaded.imported)
    manifests.ensure_folder(out, plan)
    with writing.locked(out, shared=request.num_tasks > 1):
        for line in imported.describe(loaded.report or {}):
            print(line, flush=True)
        sidecars = _fill(request, plan)
        if left := [len(spec.photos) for spec, sidecar in zip(plan, sidecars, strict=True) if sidecar is None]:
            return (
                f"task {request.task_index} of {request.num_tasks} is done; {len(left)} of {len(plan)} shards "
                f"({sum(left)} photos) are left to other tasks: the last of them writes the manifest. Any task may "
                "run again"
            )
        manifest = manifests.compose(out, sidecars, description, request.max_rejected)
        summary = manifests.summary(manifest)
        page.write_page(out, manifest, summary)
        manifests.write(out, manifest)
    head, plots = f"{manifest['num_records']} records in {out}", f"plots and photos: {out / page.PAGE}"
    return "\n".join(filter(None, [head, *summary, plots, passed_over_line(loaded.passed_over), next_command]))


def _fill(request: Request, plan: list[shards.ShardSpec]) -> list[dict | None]:
    """Does this task's unfinished shards.

    Returns:
        The sidecar of each shard, None where another task has not done its own yet.
    """
    sidecars = {spec.path: shards.finished(spec) for spec in plan}
    mine = [spec for spec in plan[request.task_index :: request.num_tasks] if sidecars[spec.path] is None]
    if num_done := len(plan) - list(sidecars.values()).count(None):
        print(f"{num_done} of {len(plan)} shards are done already", flush=True)
    num_workers = request.num_workers or available_cores()
    if mine and request.beam_options is not None:
        from data_prep import beam  # late: Apache Beam is not among the requirements

        beam.run(shards.process_shard, mine, request.out, request.beam_options, num_workers)
    elif mine:
        runners.run(shards.process_shard, mine, [len(spec.photos) for spec in mine], num_workers)
    # Read again: the disk shows which shards are done, by this task or another.
    sidecars |= {spec.path: shards.finished(spec) for spec in plan if sidecars[spec.path] is None}
    if lost := [spec.path for spec in mine if sidecars[spec.path] is None]:
        raise UserError(f"{lost[0]} is not there after the run: --out must be one folder that all workers see")
    return list(sidecars.values())
