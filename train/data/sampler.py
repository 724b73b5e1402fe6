"""The order of an epoch's samples, which neither the batch size nor the number of processes changes."""

import itertools
import math

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler):
    """A permutation of the samples for each epoch.

    `start` is the position of the first one: a resumed epoch skips what it has seen. The first ones are repeated at the
    end, so that there are a multiple of `multiple` in the whole epoch: several processes need equal numbers of batches.

    Args:
        dataset: has a length.
        seed: together with the epoch, decides on the permutation.
    """

    def __init__(self, dataset, seed):
        self.dataset, self.seed, self.epoch = dataset, seed, 0
        self.start, self.multiple = 0, 1

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return max(0, self._length() - self.start)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.dataset), generator=generator).tolist()
        yield from itertools.islice(itertools.cycle(order), self.start, self._length())

    def _length(self):
        return math.ceil(len(self.dataset) / self.multiple) * self.multiple
