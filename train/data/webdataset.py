"""Webdataset shards as people pack them: `Shards`."""

import contextlib
import itertools
import json
import os
from dataclasses import dataclass

from datasets import BuilderConfig, DatasetInfo, Features, Image, List, Value
from datasets.builder import Key
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from .captions import CAPTION_COLUMNS, NotTextError, texts_of
from .columns import ID_COLUMNS, SUFFIXES

TEXTS = ("txt", "text", "caption", "captions")  # members with a caption a line


@dataclass
class ShardsConfig(BuilderConfig):
    image_column: str = "image"
    caption_column: str | None = None
    caption_language: str | None = None


class Shards(WebDataset):
    """Samples as rows of a photo, its captions and what tells it from others.

    The builder of `datasets` ends a key at a name's first dot, so that "photo.1.jpg" has none of its own, knows the
    members of the first samples alone, and takes ".JPG" and ".jpg" for two columns. Here a key ends at the last dot.
    """

    BUILDER_CONFIG_CLASS = ShardsConfig

    @classmethod
    def like(cls, builder, settings):
        """A builder for the names and the files of another one, with the columns that `settings` name."""
        return cls(
            dataset_name=builder.dataset_name,
            repo_id=builder.repo_id,
            hash=builder.hash,
            token=builder.token,
            base_path=builder.base_path,
            data_files=builder.config.data_files,
            image_column=settings.image_column or "image",
            caption_column=settings.caption_column,
            caption_language=settings.caption_language,
        )

    def _info(self):
        columns = {self.config.image_column: Image(), self._captions: List(Value("string"))}
        return DatasetInfo(features=Features(columns | {"image_id": Value("string")}))

    @property
    def _captions(self):
        return self.config.caption_column or "captions"

    def _split_generators(self, dl_manager):
        splits = super()._split_generators(dl_manager)
        first = [sample for _, sample in itertools.islice(samples(splits[0].gen_kwargs["tar_iterators"][0]), 5)]
        if not any(_picture(sample) and self._texts(sample) for sample in first):
            found = dict.fromkeys(name for sample in first for name in (*sample, *_described(sample)))
            raise ValueError(
                f"The shards' columns are {', '.join(found)}; known for photos are {', '.join(sorted(SUFFIXES))}, for"
                f" captions {', '.join(TEXTS)} with a caption a line, and json with {', '.join(CAPTION_COLUMNS)}. Name"
                " yours: --caption_column."
            )
        return splits

    def _generate_examples(self, tar_paths, tar_iterators):
        for shard, (path, members) in enumerate(zip(tar_paths, tar_iterators, strict=True)):
            for number, (key, sample) in enumerate(samples(members)):
                name, content = _picture(sample) or (None, None)
                described = _described(sample)
                ids = (described.get(column) for column in ID_COLUMNS)
                yield (
                    Key(shard, number),
                    {
                        self.config.image_column: name and {"path": name, "bytes": content},
                        self._captions: self._texts(sample),
                        "image_id": str(next((one for one in ids if one is not None), f"{path} {key}")),
                    },
                )

    def _texts(self, sample):
        wanted = self.config.caption_column
        for suffix in [wanted] if wanted else TEXTS:
            if suffix in sample:
                return sample[suffix][1].decode("utf-8-sig", errors="replace").splitlines()
        described = _described(sample)
        for column in [wanted] if wanted else CAPTION_COLUMNS:
            with contextlib.suppress(NotTextError):
                if texts := texts_of(described.get(column), self.config.caption_language):
                    return texts
        return []


def samples(members):
    """(key, {suffix: (name, content)}) of members in turn whose names differ behind the last dot alone."""
    members = ((*os.path.splitext(name), file) for name, file in members)
    for key, group in itertools.groupby(members, key=lambda member: member[0]):
        yield key, {suffix[1:].lower(): (key.rpartition("/")[2] + suffix, file.read()) for _, suffix, file in group}


def _picture(sample):
    return next((member for suffix, member in sample.items() if f".{suffix}" in SUFFIXES), None)


def _described(sample):
    """What a sample's JSON says of it, {name: value}."""
    try:
        content = json.loads(sample["json"][1]) if "json" in sample else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {"captions": content}
