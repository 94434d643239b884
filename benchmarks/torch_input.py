"""The usual PyTorch input of BYOL's views: PIL decodes and crops, torchvision augments, all on the host."""

import io
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.errors import UserError
from univip_jax.views import ViewSpec


class Photo(NamedTuple):
    """A file and the boxes of its views: float32 yxyx in [0, 1]."""

    encoded: bytes
    scenes: np.ndarray  # [2, 4]
    instances: np.ndarray  # [K, 4]


def torch_batches(photos: list[Photo], spec: ViewSpec, batch_size: int) -> Iterator[list]:
    """Endless batches of normalised float32 views [B, 3, S, S], by a DataLoader in this process.

    Strengths and probabilities equal configs/common.py. The boxes come with the photos: choosing them costs PyTorch
    nothing here.

    Raises UserError where torch or torchvision cannot be imported.
    """
    try:
        import torch
        from torchvision import transforms as T
        from torchvision.transforms import functional as F
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision and torch are of different builds
        raise UserError(f"torchvision cannot be imported ({str(error).splitlines()[0]})") from error
    torch.set_num_threads(1)

    def augmentation(blur: float, solarize: float) -> T.Compose:
        def blur_image(image: Image.Image) -> Image.Image:
            return image.filter(ImageFilter.GaussianBlur(radius=np.random.uniform(0.1, 2.0)))

        return T.Compose(
            [
                T.RandomHorizontalFlip(0.5),
                T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
                T.RandomGrayscale(0.2),
                T.RandomApply([T.Lambda(blur_image)], blur),
                T.RandomApply([T.Lambda(ImageOps.solarize)], solarize),
                T.ToTensor(),
                T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    first, second = augmentation(1.0, 0.0), augmentation(0.1, 0.2)

    class Views(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(photos)

        def __getitem__(self, index: int) -> list[torch.Tensor]:
            photo = photos[index]
            image = Image.open(io.BytesIO(photo.encoded)).convert("RGB")
            scale = np.array([image.height, image.width] * 2)

            def view(box: np.ndarray, size: int, augment: T.Compose) -> torch.Tensor:
                top, left, bottom, right = np.rint(box * scale).astype(int)
                crop = F.resized_crop(image, top, left, max(1, bottom - top), max(1, right - left), [size, size])
                return augment(crop)

            scenes = [view(b, spec.scene_size, a) for b, a in zip(photo.scenes, (first, second), strict=True)]
            return scenes + [view(box, spec.instance_size, first) for box in photo.instances]

    loader = torch.utils.data.DataLoader(Views(), batch_size)
    return itertools.chain.from_iterable(itertools.repeat(loader))
