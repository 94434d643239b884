"""The train step, its parts and the forward pass at test, each compiled for one device."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.detection.program import Program
from benchmarks.step.worker import seconds_per_call
from univip_jax.config import to_spec
from univip_jax.detection import step
from univip_jax.detection.anchors import STRIDES, anchors
from univip_jax.detection.boxes import clip, decode
from univip_jax.detection.nms import suppress
from univip_jax.detection.predict import predict
from univip_jax.detection.proposals import Proposals
from univip_jax.detection.roi_align import pool_regions
from univip_jax.detection.schedule import ScheduleSpec, learning_rate, make_optimizer
from univip_jax.detection.spec import RPN_WEIGHTS
from univip_jax.models.mask_rcnn import init
from univip_jax.sharding import by_batch, make_mesh, put_batch, replicated

_AHEAD = 2  # calls in the device's queue: the results of more would fill its memory
Part = tuple[str, Callable[..., Any], tuple[Any, ...]]  # its name, the function, what it is called with


class JaxDetector:
    """A detector, its state and its batch, on the first device."""

    def __init__(self, program: Program):
        self.program, self.device = program, jax.devices()[0]
        self.mesh, self.detector = make_mesh([self.device]), program.detector()
        schedule = to_spec(ScheduleSpec, program.config(), "schedule")
        self.optimizer = make_optimizer(schedule, learning_rate(schedule, program.batch_size))

    def init_state(self) -> step.DetectorState:
        """Random weights."""
        variables, zero = init(self.detector.net, jax.random.key(0)), jnp.zeros((), jnp.int32)
        params, stats = variables["params"], variables["batch_stats"]
        return step.DetectorState(zero, params, stats, self.optimizer.init(params), jnp.copy(zero))

    def lower_step(self, batch: Any) -> jax.stages.Lowered:
        """The train step for batches of these shapes."""
        everywhere, split = replicated(self.mesh), by_batch(self.mesh)
        one = partial(step.train_step, detector=self.detector, optimizer=self.optimizer, seed=0, mesh=self.mesh)
        jitted = jax.jit(
            one, in_shardings=(everywhere, split), out_shardings=(everywhere, everywhere), donate_argnums=0
        )
        return jitted.lower(jax.eval_shape(self.init_state), batch)


def measure(program: Program, rounds: int, round_seconds: float, figures: dict[str, Any]) -> None:
    """Puts facts of the compilation, and `seconds` a call of step, `predict` and parts, into `figures` as they come."""
    one = JaxDetector(program)
    facts, compiled = _compile_step(one, program)
    figures |= facts
    if not program.execute:
        return
    state = jax.jit(one.init_state, out_shardings=replicated(one.mesh))()
    batch = put_batch(one.mesh, program.batch())
    seconds = figures.setdefault("seconds", {})

    def note(name: str, call: Callable[[], Any], share: float) -> None:
        seconds[name] = _time(call, rounds, share * round_seconds)
        print(f"{program}: {name} {1000 * min(seconds[name]):.1f} ms", flush=True)

    def train() -> jax.Array:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics["train/bad_steps"]

    note("step", train, 1)
    if bad := int(train()):
        raise FloatingPointError(f"{bad} steps were not finite, and therefore skipped")
    figures["peak_bytes"] = (one.device.memory_stats() or {}).get("peak_bytes_in_use")
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    note("predict", partial(jax.jit(partial(predict, one.detector)), variables, batch.images, batch.sizes), 1 / 2)
    for name, function, arguments in parts(one, variables, batch) if program.parts else ():
        note(name, partial(jax.jit(function), *arguments), 1 / 4)


def _compile_step(one: JaxDetector, program: Program) -> tuple[dict[str, Any], jax.stages.Compiled]:
    begun = time.monotonic()
    lowered = one.lower_step(program.batch())
    compiled = lowered.compile()
    facts = {"compile_seconds": time.monotonic() - begun}
    memory = compiled.memory_analysis()
    # XLA counts the body of a loop once, and the regions of a batch are pooled image by image: ask for one image.
    single = one.lower_step(replace(program, batch_size=1).batch())
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return facts | {
        "device": one.device.device_kind,
        "version": f"jax {jax.__version__}",
        "flops_per_image": single.cost_analysis()["flops"],
        "bytes_accessed": compiled.cost_analysis().get("bytes accessed"),
        "program_bytes": used - memory.alias_size_in_bytes,
    }, compiled


def parts(one: JaxDetector, variables: Any, batch: Any) -> Iterator[Part]:
    """The parts of a step, forward; what one yields is what the next are called with."""
    detector, net, spec, canvas = one.detector, one.detector.net, one.detector.spec, one.program.canvas
    key = jax.random.key(0)

    def run(method: str, variables: Any, *arguments: Any) -> Any:
        return net.apply(variables, *arguments, method=method, mutable=["batch_stats"])[0]

    def compute(function: Callable[..., Any], *arguments: Any) -> Any:
        return jax.block_until_ready(jax.jit(function)(*arguments))

    def losses(variables: Any, batch: Any) -> Any:
        return step.losses(detector, variables["params"], variables["batch_stats"], batch, key)[0]

    def backbone(variables: Any, images: Any, sizes: Any) -> list[jax.Array]:
        return run("levels", variables, step.on_canvas(images, sizes), True)

    yield "forward", losses, (variables, batch)
    yield "backbone and pyramid", backbone, (variables, batch.images, batch.sizes)
    yield "backbone and pyramid and gradient", _gradient(backbone), (variables, batch.images, batch.sizes)
    levels = compute(backbone, variables, batch.images, batch.sizes)
    yield "RPN head", partial(run, "propose"), (variables, levels)
    logits, deltas = compute(partial(run, "propose"), variables, levels)

    def propose(logits: Any, deltas: Any, sizes: Any) -> Proposals:
        return detector.propose(logits, deltas, sizes, canvas, train=True)

    def match(boxes: Any, exists: Any) -> Any:
        references = jnp.concatenate([jnp.asarray(level) for level in anchors(*canvas)])
        return jax.lax.map(lambda x: step.sample_anchors(spec, key, *x, references), (boxes, exists))

    yield "anchor matching", match, (batch.boxes, batch.exists)
    yield "proposals", propose, (logits, deltas, batch.sizes)
    number = spec.rpn_candidates[0]
    yield "proposals: top-k", lambda x: [jax.lax.top_k(y, min(number, y.shape[-1])) for y in x], (logits,)

    def candidates(logits: Any, deltas: Any, size: Any) -> jax.Array:
        """Those of the largest level."""
        best = jax.lax.top_k(logits, min(number, len(logits)))[1]
        return clip(decode(deltas[best], jnp.asarray(anchors(*canvas)[0])[best], RPN_WEIGHTS), size)

    crowded = compute(jax.vmap(candidates), logits[0], deltas[0], batch.sizes)
    keep = jax.vmap(lambda boxes: suppress(boxes, jnp.ones(len(boxes), bool), spec.rpn_nms))
    yield "proposals: NMS of one level", keep, (crowded,)
    proposals = compute(propose, logits, deltas, batch.sizes)

    def regions(proposals: Any, batch: Any) -> step.Regions:
        keys = jax.random.split(key, len(batch.boxes))
        sample = jax.vmap(partial(step.sample_regions, detector))
        return sample(keys, proposals, batch.boxes, batch.classes, batch.exists)

    yield "region sampling", regions, (proposals, batch)
    boxes = compute(regions, proposals, batch).boxes
    yield from _heads(one, variables, levels[:4], boxes, run, compute)


def _heads(
    one: JaxDetector, variables: Any, levels: Any, boxes: Any, run: Callable[..., Any], compute: Callable[..., Any]
) -> Iterator[Part]:
    spec = one.detector.spec

    def pool(levels: Any, boxes: Any) -> tuple[jax.Array, jax.Array]:
        of_masks = boxes[:, : spec.box_positive]
        pooled = [
            pool_regions(levels, boxes, STRIDES[:4], bins)
            for boxes, bins in ((boxes, spec.box_bins), (of_masks, spec.mask_bins))
        ]
        return tuple(x.reshape(-1, *x.shape[2:]) for x in pooled)

    def heads(variables: Any, of_boxes: Any, of_masks: Any) -> Any:
        return run("classify", variables, of_boxes, True), run("segment", variables, of_masks, True)

    yield "RoIAlign", pool, (levels, boxes)
    yield "RoIAlign and gradient", _gradient(pool), (levels, boxes)
    pooled = compute(pool, levels, boxes)
    yield "heads", heads, (variables, *pooled)
    yield "heads and gradient", _gradient(heads), (variables, *pooled)


def _gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of the sum of all outputs by the first argument: the function and its backward pass."""

    def total(*arguments: Any) -> jax.Array:
        return sum(x.astype(jnp.float32).sum() for x in jax.tree.leaves(function(*arguments)))

    return jax.grad(total)


def _time(call: Callable[[], Any], rounds: int, seconds: float) -> list[float]:
    """Seconds a call, in each round."""
    running: deque[Any] = deque()

    def again() -> None:
        running.append(call())
        if len(running) > _AHEAD:
            jax.block_until_ready(running.popleft())

    def wait() -> None:
        jax.block_until_ready(list(running))
        running.clear()

    seconds_per_call(again, wait, 1)  # compiles
    count = max(1, round(seconds / seconds_per_call(again, wait, 1)))
    return [seconds_per_call(again, wait, count) for _ in range(rounds)]
