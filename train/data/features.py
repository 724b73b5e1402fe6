"""Cache of a frozen encoder's features on disk, so that it processes each photo only once."""

import functools
import hashlib
import os

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from captioning.prefetch import prefetch_map
from modeling_captioner.cores import usable_cores

from ..checkpoints import writing
from .dataset import paths_of, pixel_values

SHARD_BYTES = 2**28  # size of a file; an interrupted run loses at most one
MAX_AHEAD = 8  # batches of pixels in memory


class Features:
    """The features of each photo, (regions, channels), float16, memory-mapped from the files of the cache."""

    def __init__(self, files):
        self.files, self.shards = files, [np.load(file, mmap_mode="r") for file in files]
        self.photos_per_shard = len(self.shards[0])

    def __reduce__(self):
        """Spawned workers map the files too; NumPy would send them copies of the arrays."""
        return Features, (self.files,)

    def __getitem__(self, photo):
        shard, row = divmod(photo, self.photos_per_shard)
        return self.shards[shard][row]


@torch.inference_mode()
def cached_features(encoder, processor, photos, folder, batch_size):
    """Compute the encoder's features of each photo, or load them from the cache. The processes share the work.

    Args:
        encoder: a `CaptionerEncoder` on the device to compute on.
        photos: a `Dataset` with the column `image`.
        folder: folder of the cache, which may be shared by data sets and encoders. A file is named after a fingerprint
            of everything that its features depend on: a different encoder, image size or photo uses another file.

    Returns [`Features`].
    """
    encoder.eval()
    folder.mkdir(parents=True, exist_ok=True)
    first = _features(encoder, pixel_values(processor, [photos[0]]))
    size = max(1, SHARD_BYTES // first.nbytes)  # photos per shard
    shards = [photos.select(range(start, min(len(photos), start + size))) for start in range(0, len(photos), size)]
    fingerprint = encoder_fingerprint(encoder, processor, photos)
    files = [folder / f"{fingerprint}-{photos_fingerprint(shard)}.npy" for shard in shards]
    state = PartialState()
    for number in tqdm(range(len(files)), desc="features", disable=not state.is_local_main_process):
        if number % state.num_processes == state.process_index:
            _write_shard(files[number], encoder, processor, shards[number], batch_size)
    state.wait_for_everyone()
    for file, shard in zip(files, shards, strict=True):  # shards that another machine wrote to its own disk
        _write_shard(file, encoder, processor, shard, batch_size)
    return Features(files)


def _write_shard(file, encoder, processor, photos, batch_size):
    """Compute the features of a shard, and write them atomically, unless the file exists."""
    if file.exists():
        return
    starts = range(0, len(photos), batch_size)
    batches = (photos.select(range(start, min(len(photos), start + batch_size))) for start in starts)
    # Threads open the next photos while the encoder works; Pillow lets them run at the same time.
    opened = functools.partial(pixel_values, processor)
    ahead = prefetch_map(opened, map(list, batches), min(usable_cores(), MAX_AHEAD))
    features = None
    for start, pixels in zip(starts, tqdm(ahead, total=len(starts), desc="photos", leave=False), strict=True):
        batch = _features(encoder, pixels)
        if features is None:
            features = np.empty((len(photos), *batch.shape[1:]), batch.dtype)
        features[start : start + len(batch)] = batch
    part = file.with_suffix(f".part{os.getpid()}")
    with writing(file, part):
        part.mkdir()
        np.save(part / file.name, features)
        (part / file.name).replace(file)
    part.rmdir()


def _features(encoder, pixels):
    weight = next(encoder.parameters())
    return encoder.features(pixels.to(weight.device, weight.dtype)).half().cpu().numpy()


def encoder_fingerprint(encoder, processor, photos):
    """A hash of the preprocessing (by the pixel values of the first photo) and of the encoder's weights."""
    digest = hashlib.sha256(pixel_values(processor, [photos[0]]).numpy().tobytes())
    for tensor in encoder.backbone.state_dict().values():
        digest.update(tensor.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def photos_fingerprint(photos):
    """A hash of the photos. Files are not read, but identified by path, size and modification time."""
    digest = hashlib.sha256(photos._fingerprint.encode())
    for path in paths_of(photos):
        if path and os.path.exists(path):
            status = os.stat(path)
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
