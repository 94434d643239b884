"""Photos to a finished data set, step by step."""

import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from data_prep import imported, runners, shards
from data_prep import manifest as manifests
from data_prep.inputs import Inputs, load


class Request(NamedTuple):
    """What the command line asks for."""

    inputs: Inputs
    out: Path
    settings: shards.Settings
    num_workers: int
    max_rejected: float = 0.1  # share of the photos


def prepare(request: Request) -> str:
    """Prepares the data set, or finishes what an interrupted run began, and returns a summary for people.

    Raises:
        UserError: see `inputs`, `manifest` and `runners`.
    """
    started = time.monotonic()
    loaded = load(request.inputs, request.settings, request.out)
    description = manifests.describe(loaded, request.settings)
    if (manifest := manifests.finished(request.out, description)) is not None:
        return f"{request.out} is already done: {manifest['num_records']} records\n{_next_command(request.out)}"
    plan = shards.plan_shards(request.out, loaded.photos, loaded.annotations, request.settings, loaded.imported)
    manifests.make_room(request.out, plan)
    if loaded.index:
        loaded.index.keep(request.out)
    for line in imported.describe(loaded.report or {}):
        print(line, flush=True)
    pending = [spec for spec in plan if shards.finished(spec) is None]
    if len(pending) < len(plan):
        print(f"{len(plan) - len(pending)} of {len(plan)} shards are done already", flush=True)
    num_photos = sum(len(spec.photos) for spec in pending)
    new = dict(zip((s.path for s in pending), _run(pending, num_photos, request.num_workers), strict=True))
    sidecars = [new.get(spec.path) or shards.finished(spec) for spec in plan]
    manifest = manifests.write(request.out, sidecars, description, request.max_rejected)
    cores = max(1, min(request.num_workers, len(pending)))
    return _summary(request.out, manifest, sidecars, num_photos, time.monotonic() - started, cores)


def _run(pending: list[shards.ShardSpec], num_photos: int, num_workers: int) -> list[dict]:
    return runners.run(shards.process_shard, pending, num_photos, num_workers) if pending else []


def _summary(out: Path, manifest: dict, sidecars: list[dict], num_photos: int, seconds: float, cores: int) -> str:
    """The data set in figures, and what to do next; `num_photos` were processed in this run."""
    reasons = Counter(entry["reason"].split(":")[0] for sidecar in sidecars for entry in sidecar["rejected"])
    rejected = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    proposals = manifest["proposals"]
    lines = [
        f"{manifest['num_records']} records in {out}",
        f"rejected: {manifest['num_rejected']}" + (f" ({rejected}; see {manifests.REJECTED})" if rejected else ""),
        f"boxes a photo: {proposals['mean']:.1f} in the mean, {proposals['min']} to {proposals['max']}; "
        f"{proposals['share_below_4']:.1%} of the photos have fewer than 4",
        f"{num_photos} photos in {seconds:.1f} s on {cores} core{'s' * (cores > 1)}: "
        f"{num_photos / seconds / cores:.2f} photos/s/core",
        _next_command(out),
    ]
    return "\n".join(lines)


def _next_command(out: Path) -> str:
    return f"next: python main.py --config=configs/coco.py --config.data.train={out} --workdir=RUN_DIR"
