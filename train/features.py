"""A frozen encoder looks at each photo once: its features, cached on disk."""

import hashlib
import json

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .data import photo_of

SAVED_EVERY = 20  # batches after which an interrupted run would go on


@torch.inference_mode()
def cached_features(encoder, processor, photos, folder, batch_size):
    """The encoder network's features of each photo.

    Args:
        encoder: a `CaptionerEncoder`, on the device that is to compute.
        photos: a data set with the column `image`.
        folder: where files of all data sets and encoders lie; the file's name is a fingerprint of everything that the
            features depend on, so that another encoder, size or set gets a file of its own.

    Returns an array (photos, regions, channels), float16, mapped from disk. An interrupted run goes on where it was.
    """
    device = next(encoder.parameters()).device
    folder.mkdir(parents=True, exist_ok=True)
    name = fingerprint(encoder, processor, photos)
    file, done_file = folder / f"{name}.npy", folder / f"{name}.json"
    done = json.loads(done_file.read_text()) if done_file.exists() else 0
    if done == len(photos):
        return np.load(file, mmap_mode="r")
    encoder.eval()

    def pixels(rows):
        return processor(images=[photo_of(row) for row in rows], return_tensors="pt").pixel_values

    rest = photos.select(range(done, len(photos)))
    features = np.load(file, mmap_mode="r+") if done else None
    for number, batch in enumerate(tqdm(DataLoader(rest, batch_size, collate_fn=pixels), desc="features")):
        found = encoder.features(batch.to(device)).half().cpu().numpy()
        if features is None:
            shape = (len(photos), *found.shape[1:])
            features = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
        features[done : done + len(found)] = found
        done += len(found)
        if number % SAVED_EVERY == 0 or done == len(photos):
            features.flush()
            done_file.write_text(json.dumps(done))
    return np.load(file, mmap_mode="r")


def fingerprint(encoder, processor, photos):
    """A hash of the photos, of how they are prepared (what becomes of the first one), and of the encoder's weights."""
    digest = hashlib.sha256(photos._fingerprint.encode())
    digest.update(processor(images=photo_of(photos[0]), return_tensors="np").pixel_values.tobytes())
    for tensor in encoder.backbone.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
