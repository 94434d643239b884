"""Features of a labelled set."""

import jax
import numpy as np
from tqdm import tqdm

from univip_jax.data.labelled.sets import Labelled, centre_batches
from univip_jax.sharding import by_batch, make_mesh, replicated
from univip_jax.types import Features
from univip_jax.weights.encoder import Encoder


def extract(encoder: Encoder, labelled: Labelled, image_size: int, batch_size: int) -> Features:
    """Features of every photo's centre crop; each batch is split over the local devices."""
    mesh = make_mesh(jax.local_devices())
    sharding, variables = by_batch(mesh), jax.device_put(encoder.variables, replicated(mesh))
    batch_size = max(batch_size, mesh.size) // mesh.size * mesh.size
    features, labels = [], []
    with tqdm(total=labelled.num_images, unit="photo", desc=f"features of {labelled.name}") as bar:
        for batch in centre_batches(labelled, image_size, batch_size):
            count = len(batch.labels)
            # The last batch is filled up, so that one program serves all.
            padded = np.concatenate([batch.images, np.zeros((batch_size - count, *batch.images.shape[1:]), np.uint8)])
            features.append(np.asarray(encoder.jitted(variables, jax.device_put(padded, sharding)))[:count])
            labels.append(batch.labels)
            bar.update(count)
    return Features(np.concatenate(features), np.concatenate(labels))
