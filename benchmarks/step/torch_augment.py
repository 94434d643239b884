"""The augmentation of univip_jax/augment.py in PyTorch: on the device, batched, a draw per image."""

import torch

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD, AugmentSpec
from univip_jax.colors import LUMA

_GREY = (0.2989, 0.5870, 0.1140)


def adjust_contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Stretches [N, H, W, 3] about each channel's mean by a factor [N, 1, 1, 1] per image."""
    mean = x.mean((1, 2), keepdim=True)
    return factor * (x - mean) + mean


def _to_hsv(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hue, saturation and value [N, H, W, 1], all in [0, 1]."""
    red, green, blue = x.split(1, dim=-1)
    value = x.amax(-1, keepdim=True)
    spread = value - x.amin(-1, keepdim=True)
    sixth = 1 / (6 * torch.where(spread > 0, spread, 1.0))
    hue = torch.where(value == green, sixth * (blue - red) + 2 / 6, sixth * (red - green) + 4 / 6)
    hue = torch.where(value == red, sixth * (green - blue), hue)
    hue = torch.where(spread > 0, hue, 0.0)
    saturation = torch.where(value > 0, spread / torch.where(value > 0, value, 1.0), 0.0)
    return hue + (hue < 0), saturation, value


def _to_rgb(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    sixths = hue.remainder(1.0) * 6
    red = ((sixths - 3).abs() - 1).clamp(0, 1)
    green = (2 - (sixths - 2).abs()).clamp(0, 1)
    blue = (2 - (sixths - 4).abs()).clamp(0, 1)
    return value * (1 - saturation + saturation * torch.cat([red, green, blue], dim=-1))


def adjust_saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiplies the saturation of [N, H, W, 3] in HSV by a factor [N, 1, 1, 1] per image."""
    hue, saturation, value = _to_hsv(x)
    return _to_rgb(hue, (saturation * factor).clamp(0, 1), value)


def adjust_hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Shifts the hue of [N, H, W, 3] by a part [N, 1, 1, 1] of the circle."""
    hue, saturation, value = _to_hsv(x)
    return _to_rgb(hue + shift, saturation, value)


def gaussian_blur(x: torch.Tensor, sigma: torch.Tensor, radius: int) -> torch.Tensor:
    """Blurs [N, S, S, 3] by a sigma [N] per image, as products with banded matrices that repeat the edge pixels."""
    side = x.shape[1]
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    weights = torch.softmax(-(offsets**2) / (2 * sigma[:, None] ** 2), dim=1)
    columns = (torch.arange(side, device=x.device)[:, None] + offsets).clamp(0, side - 1).expand(len(x), -1, -1)
    matrix = x.new_zeros(len(x), side, side)
    matrix = matrix.scatter_add(2, columns, weights[:, None].expand(-1, side, -1))
    rows = torch.einsum("nij,njkc->nikc", matrix, x)
    return torch.einsum("nlk,nikc->nilc", matrix, rows)


def blend(x: torch.Tensor, kind: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """`univip_jax.colors.blend` of [N, H, W, 3], with a kind and a factor [N, 1, 1, 1] per image."""
    grey = (x * x.new_tensor(LUMA)).sum(-1, keepdim=True)
    anchor = torch.where(kind == 2, grey, torch.where(kind == 1, grey.mean((1, 2, 3), keepdim=True), 0.0))
    return anchor + factor * (x - anchor)


def _jitter(x: torch.Tensor, spec: AugmentSpec) -> torch.Tensor:
    """The four adjustments in a random order: all at each place, of which an image takes one."""

    def draw(strength: float) -> torch.Tensor:
        return strength * (2 * torch.rand(len(x), 1, 1, 1, device=x.device) - 1)

    brightness, contrast = draw(spec.brightness), 1 + draw(spec.contrast)
    saturation, hue = 1 + draw(spec.saturation), draw(spec.hue)
    order = torch.rand(len(x), 4, device=x.device).argsort(1)
    for place in range(4):
        kind = order[:, place, None, None, None]
        if spec.color == "byol":
            light = torch.where(kind == 0, x + brightness, adjust_contrast(x, contrast))
            other = torch.where(kind < 2, light, adjust_saturation(x, saturation))
        else:
            factor = torch.where(kind == 0, 1 + brightness, torch.where(kind == 1, contrast, saturation))
            other = blend(x, kind, factor)
        x = torch.where(kind == 3, adjust_hue(x, hue), other).clamp(0, 1)
    return x


def augment(images: torch.Tensor, spec: AugmentSpec, view: int) -> torch.Tensor:
    """uint8 [N, S, S, 3] to augmented, normalised float32 [N, 3, S, S], channels last in memory.

    Args:
      view: 0 for the first scene and for instances, 1 for the second scene.
    """
    x = images.float() / 255

    def happens(probability: float) -> torch.Tensor:
        return torch.rand(len(x), 1, 1, 1, device=x.device) < probability

    x = torch.where(happens(spec.flip), x.flip(2), x)
    x = torch.where(happens(spec.jitter), _jitter(x, spec), x)
    x = torch.where(happens(spec.greyscale), (x * x.new_tensor(_GREY)).sum(-1, keepdim=True), x)
    if spec.blur[view]:
        low, high = spec.blur_sigma
        sigma = low + (high - low) * torch.rand(len(x), device=x.device)
        x = torch.where(happens(spec.blur[view]), gaussian_blur(x, sigma, spec.blur_radius(x.shape[1])), x)
    if spec.solarize[view]:
        x = torch.where(happens(spec.solarize[view]), torch.where(x < 128 / 255, x, 1 - x), x)
    x = (x.clamp(0, 1) - torch.as_tensor(IMAGENET_MEAN, device=x.device)) / torch.as_tensor(
        IMAGENET_STD, device=x.device
    )
    return x.permute(0, 3, 1, 2)
