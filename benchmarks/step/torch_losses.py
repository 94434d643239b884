"""The terms of univip_jax/losses.py in PyTorch, Sinkhorn in the log domain; of `transport`, only `plan_mass` varies."""

import torch
from torch.nn.functional import cosine_similarity, normalize

from benchmarks.step.torch_networks import Encoder, Online
from univip_jax.losses import LossSpec
from univip_jax.transport import OWN_MASS, TransportSpec


def marginals(
    instances: torch.Tensor, scenes: torch.Tensor, spec: TransportSpec, total: torch.Tensor | None
) -> torch.Tensor:
    """Weights [B, K] of instances [B, K, D] by scenes [B, 2, D] (UniVIP Eq. 9-10); with sums [B, 1], or their own."""
    mean = normalize(scenes, dim=-1).mean(1)
    scores = torch.einsum("bkd,bd->bk", normalize(instances, dim=-1), mean).clamp(min=0)
    if total is None:
        return scores + 1e-8
    weights = scores + spec.marginal_floor
    return total * weights / weights.sum(-1, keepdim=True)


def transport_plan(cost: torch.Tensor, supply: torch.Tensor, demand: torch.Tensor, spec: TransportSpec) -> torch.Tensor:
    """Plans [B, K, K] by Sinkhorn in the log domain (UniVIP Eq. 7)."""
    log_supply, log_demand, scores = supply.log(), demand.log(), -cost / spec.epsilon
    f = torch.zeros_like(log_supply)
    for _ in range(spec.num_iters):
        g = log_demand - torch.logsumexp(scores + f[:, :, None], 1)
        f = log_supply - torch.logsumexp(scores + g[:, None, :], 2)
    return (scores + f[:, :, None] + g[:, None, :]).exp()


class Losses(torch.nn.Module):
    """The weighted sum of the three terms from two scenes and K instances per image (UniVIP Eq. 2-12)."""

    def __init__(self, online: Online, target: Encoder, loss: LossSpec, transport: TransportSpec):
        super().__init__()
        self.online, self.target, self.loss, self.transport = online, target, loss, transport

    def forward(self, scenes: list[torch.Tensor], instances: torch.Tensor | None) -> torch.Tensor:
        """Normalised scenes 2 x [B, 3, S, S] and instances [B*K, 3, I, I], image by image; returns a scalar."""
        batch = len(scenes[0])

        def by_image(outputs: torch.Tensor) -> torch.Tensor:
            return outputs.float().reshape(batch, -1, outputs.shape[-1])

        with torch.no_grad():
            t = torch.stack([self.target(view).float() for view in scenes], 1)
            ti = by_image(self.target(instances)) if self.loss.instance else None
        o = torch.stack([self.online(view).float() for view in scenes], 1)
        total = -self.loss.scene * cosine_similarity(o, t.flip(1), dim=-1).sum(1).mean()
        if instances is not None:
            outputs = self.online(instances)
            oi = by_image(outputs)
            merged = self.online.f_linear(outputs.reshape(batch, -1)).float()
            total = total - self.loss.scene_instance * cosine_similarity(merged[:, None], t, dim=-1).sum(1).mean()
        if ti is not None:
            similarity = normalize(oi, dim=-1) @ normalize(ti, dim=-1).mT
            with torch.no_grad():
                mass = self.transport.plan_mass
                given = None if mass == OWN_MASS else oi.new_full((batch, 1), mass or oi.shape[1])
                supply = marginals(oi, t, self.transport, given)
                demand = marginals(ti, o, self.transport, supply.sum(-1, keepdim=True))
                plan = transport_plan(1 - similarity, supply, demand, self.transport)
            total = total - self.loss.instance * (similarity * plan).sum((1, 2)).mean()
        return self.loss.scale * total
