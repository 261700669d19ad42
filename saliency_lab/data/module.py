"""The common face of all data sets."""

# No `from __future__ import annotations` here and in the data sets: a dataclass hands its fields'
# annotations on to the signatures of its subclasses, and those are validated, so they must be
# types and not strings that mean something in this module only.

import logging
import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from saliency_lab.data.augmentation import augmented
from saliency_lab.data.batch import Batch, Split, channels_last_pixels
from saliency_lab.data.cache import CachedImages, cached_images, default_cache_dir
from saliency_lab.data.sampling import BlockBatches, TrainBatches
from saliency_lab.data.selection import balanced, class_labels, held_out, renumbered, shuffled
from saliency_lab.data.shortcuts import Cue, Place
from saliency_lab.data.source import Source, digest
from saliency_lab.errors import UserError, unknown_choice

SplitName = Literal["train", "val", "test"]
_NAMED = 5
_log = logging.getLogger(__name__)


def _nothing_done() -> Collection[int]:
    return ()


@dataclass(kw_only=True, eq=False, repr=False)
class ImageData(LightningDataModule):
    """Images decoded once, selected by class and limit, batched the same on any number of ranks.

    A data set is a subclass, decorated as this one is, that gives `source` and, where it can be
    downloaded, `download`; its own settings are further fields.

    Args:
        name: the name of the data set, used for its cache and in reports.
        root: folder of the images; None for the data set's own place.
        classes: names of the classes to use, labels renumbered in this order; None for all.
        limit: images per split, balanced over the classes; None for all.
        augment: `basic` flips and crops while training, on the device.
        batch_size: images per training batch over all processes.
        workers: loader processes; 0 gathers batches in the main process, which is the fastest.
        validation: share of the training split held out as `val`, about the same of each class;
            which images, their ids and the seed decide (see `selection.held_out`).
        on_corrupt: `skip` leaves unreadable images out and says how many.
        training_labels: `shuffled` deals the labels of the training images (the held-out ones
            among them) out to them at random: a network that learns these learns nothing of the
            classes. Test images keep theirs.
        cache_dir: folder of decoded images; None for $SALIENCY_LAB_CACHE or the user's cache.
        seed: decides limit, validation, order, augmentation and the shuffling of labels.
        shortcut: a cue planted into images of one class (see `shortcuts.Cue`).
        shortcut_class: name of that class; None for the first.
        shortcut_share: share of its images that carry the cue.
        shortcut_strength: opacity of the cue.
        shortcut_place: where it lies in the image.
    """

    name: str
    root: str | None = None
    classes: Sequence[str] | None = None
    limit: Annotated[int, Gt(0)] | None = None
    augment: Literal["none", "basic"] = "none"
    batch_size: Annotated[int, Gt(0)] = 128
    workers: Annotated[int, Ge(0)] = 0
    validation: Annotated[float, Ge(0), Lt(1)] = 0.0
    on_corrupt: Literal["error", "skip"] = "error"
    training_labels: Literal["given", "shuffled"] = "given"
    cache_dir: str | None = None
    seed: Annotated[int, Ge(0)] = 42
    shortcut: Literal["none", "watermark", "patch", "colour"] = "none"
    shortcut_class: str | None = None
    shortcut_share: Annotated[float, Gt(0), Le(1)] = 0.9
    shortcut_strength: Annotated[float, Gt(0), Le(1)] = 0.8
    shortcut_place: Place = "top_left"

    eval_split: Literal["test", "train"] = field(init=False, default="test")
    """What `test_dataloader` gives."""
    eval_batch_size: int = field(init=False)
    """Samples per block of `test_dataloader`."""
    done_blocks: Callable[[], Collection[int]] = field(init=False)
    """Asked when `test_dataloader` is made: the blocks to leave out."""
    global_batch: bool = field(init=False, default=True)
    """Whether `batch_size` is that of all processes together, or of each."""

    def __post_init__(self) -> None:
        super().__init__()
        # A rank that gets no block of a small or nearly finished evaluation is no mistake.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.eval_batch_size = self.batch_size
        self.done_blocks = _nothing_done
        self._sources: dict[str, Source] = {}
        self._splits: dict[str, Split] = {}

    # What a data set gives ---------------------------------------------------------------------

    @abstractmethod
    def source(self, split: Literal["train", "test"]) -> Source:
        """All samples of a split, not yet decoded; the same class names for both splits."""

    def download(self) -> None:
        """Bring the files to their place; called by one process per machine."""

    def stored(self, split: Literal["train", "test"]) -> CachedImages | None:
        """All images of the source where they lie decoded on the disk; None: the cache is used."""
        return None

    # What the tasks ask for --------------------------------------------------------------------

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order."""
        names = self._source("train").class_names
        return tuple(names[label] for label in class_labels(names, self.classes))

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self._source("train").shape

    @property
    def sizes(self) -> dict[SplitName, int]:
        """Number of images per split that has any; opens every split."""
        names: tuple[SplitName, ...] = ("train", "val", "test")
        return {name: len(self.split(name)) for name in names if name != "val" or self.validation}

    def ids(self, split: SplitName) -> list[str]:
        """Stable sample ids, in the split's order."""
        return list(self.split(split).ids)

    def labels(self, split: SplitName) -> NDArray[np.int64]:
        """int64 (N,)."""
        return self.split(split).labels.copy()

    def images(
        self, split: SplitName, indices: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Images at these positions of the split, uint8 (n, C, H, W)."""
        return self.split(split).pixels(indices)

    def has_masks(self, split: SplitName) -> bool:
        """Whether the evidence of every image of the split is known; see `masks`."""
        return False

    def masks(
        self, split: SplitName, indices: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.bool]:
        """Ground-truth evidence at these positions of the split: bool (n, H, W).

        Raises:
            UserError: the data set has no masks.
        """
        raise UserError(f"Expected `data` to have masks, but {self.name} has none")

    @property
    def cue(self) -> Cue | None:
        """What is planted into images of one class; None for nothing."""
        if self.shortcut == "none":
            return None
        names = self.class_names
        chosen = names[0] if self.shortcut_class is None else self.shortcut_class
        if chosen not in names:
            raise unknown_choice("data.shortcut_class", chosen, names)
        return Cue(
            self.shortcut,
            names.index(chosen),
            self.shortcut_share,
            self.shortcut_strength,
            self.shortcut_place,
            self.seed,
        )

    def fingerprint(self, split: SplitName) -> str:
        """Hash over the ids, labels, classes and decode settings of a split."""
        opened = self.split(split)
        labels = (str(label) for label in opened.labels)
        settings = self._source("test" if split == "test" else "train").settings
        if opened.cue is not None:
            settings += repr(opened.cue)
        return digest([settings, *self.class_names, *opened.ids, *labels])

    def content(self, split: SplitName) -> str:
        """Hash over the decoded pixels of a split, without any planted cue.

        Beside `fingerprint`, it tells of a file that was replaced under its name. It differs where
        a file is decoded otherwise, too, as another version of a library may do by a grey level.
        """
        return self.split(split).content()

    def split(self, split: SplitName) -> Split:
        """A split, decoded or taken from the cache when first asked for.

        Raises:
            UserError: files are missing or unreadable, a class is unknown, the disk is full.
        """
        if split not in self._splits:
            if split == "test":
                self._splits["test"] = self._opened("test")
            else:
                self._splits["train"], self._splits["val"] = self._divided(self._opened("train"))
            cue = self.cue
            for opened in self._splits.values():
                opened.cue = cue
        return self._splits[split]

    # Lightning's hooks -------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Download, and decode what the run needs, once per machine."""
        self.download()
        if self.trainer is not None:
            self.setup("fit" if self.trainer.state.fn == "fit" else "test")

    def setup(self, stage: str | None = None) -> None:
        """Check the settings and open the splits of the stage (`fit`, `validate`, `test`)."""
        _ = self.class_names
        if stage in ("fit", "validate"):
            self.split("train")
        if stage == "test":
            self.split(self.eval_split)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled by (seed, epoch) alone; every sample once per epoch over all ranks."""
        split = self.split("train")
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        rank, world = self._place()
        batch = self.batch_size if self.global_batch else self.batch_size * world
        return self._loader(
            split,
            TrainBatches(len(split), batch, self.seed, rank=rank, world=world, epoch=epoch),
        )

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """The held-out share in order, exactly once; no loader without one.

        Raises:
            UserError: it has fewer images than there are processes.
        """
        if not self.validation:
            return []
        split, (_, world) = self.split("val"), self._place()
        if len(split) < world:
            raise UserError(
                f"Expected `data.validation` to hold an image out for each of {world} processes, "
                f"but got {len(split)} with {self.validation}."
            )
        # A block for each: Lightning leaves a process without one out of the validation, and the
        # others would wait for its part of what is counted.
        return self._blocks(split, min(self.batch_size, len(split) // world), ())

    def test_dataloader(self) -> DataLoader[Batch]:
        """The blocks of `eval_split` that are not done, in order, exactly once over all ranks."""
        return self._blocks(self.split(self.eval_split), self.eval_batch_size, self.done_blocks())

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """The tensors on the device; Lightning's own way looks into every one of the ids."""
        return batch._replace(
            image=batch.image.to(device, non_blocking=True),
            label=batch.label.to(device, non_blocking=True),
            index=batch.index.to(device, non_blocking=True),
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """uint8 to float32 in [0, 1] on the device, augmented while training."""
        image = batch.image
        if self.trainer is None or not self.trainer.training:
            return batch._replace(image=image.to(torch.float32).div_(255))
        if self.augment == "basic":
            epoch = self.trainer.current_epoch
            image = augmented(image, batch.index, seed=self.seed, epoch=epoch)
        return batch._replace(image=channels_last_pixels(image))

    # Inside ------------------------------------------------------------------------------------

    def _source(self, split: Literal["train", "test"]) -> Source:
        if split not in self._sources:
            self._sources[split] = self.source(split)
        return self._sources[split]

    def _opened(self, split: Literal["train", "test"]) -> Split:
        """All selected samples: a view on the cache of the whole split, or a small cache of
        their own under a limit, so that no more is decoded than is used."""
        source = self._source(split)
        rows, labels = renumbered(source.labels, class_labels(source.class_names, self.classes))
        ids, stored = source.ids, self.stored(split)
        if self.limit is not None:
            picked = self._limited(labels, self.limit, split)
            rows, labels = rows[picked], labels[picked]
        if self.limit is not None and stored is None:
            source = source.part(rows)
            ids, rows = source.ids, np.arange(len(rows), dtype=np.int64)
        if split == "train" and self.training_labels == "shuffled":
            labels = shuffled(labels, (self.seed, 3))
        images = self._cached(source, split) if stored is None else stored
        good = self._readable(images, rows, len(source))
        return Split(images, rows[good], labels[good], [ids[row] for row in rows[good]])

    def _limited(self, labels: NDArray[np.int64], limit: int, split: str) -> NDArray[np.int64]:
        """Places, ascending, of the images that a limit leaves."""
        return balanced(labels, limit, (self.seed, split == "test"))

    def _cached(self, source: Source, split: str) -> CachedImages:
        folder = Path(self.cache_dir).expanduser() if self.cache_dir else default_cache_dir()
        label = re.sub(r"[^\w.-]", "_", self.name)
        return cached_images(source, folder, f"{label}-{split}")

    def _readable(
        self, images: CachedImages, rows: NDArray[np.int64], total: int
    ) -> NDArray[np.bool]:
        good = np.isin(rows, list(images.unreadable), invert=True)
        bad = [images.unreadable[int(row)] for row in rows[~good]]
        if not bad:
            return good
        named = ", ".join(bad[:_NAMED]) + (", …" if len(bad) > _NAMED else "")
        if self.on_corrupt == "error":
            raise UserError(
                f"Expected `data.root` to hold readable images, but {len(bad)} of {len(rows):,} "
                f"cannot be read: {named}; fix them or set data.on_corrupt=skip."
            )
        _log.warning("Skipping %d of %d unreadable images: %s.", len(bad), len(rows), named)
        if not good.any():
            raise UserError("Expected `data.root` to hold readable images, but none can be read.")
        return good

    def _divided(self, opened: Split) -> tuple[Split, Split]:
        kept, held = held_out(opened.labels, opened.ids, self.validation, (self.seed, 2))
        if self.validation and not len(held):
            raise UserError(
                f"Expected `data.validation` to hold at least one of {len(opened):,} images out, "
                f"but got {self.validation}."
            )
        train, val = (
            Split(
                opened.images, opened.rows[part], opened.labels[part], [opened.ids[i] for i in part]
            )
            for part in (kept, held)
        )
        return train, val

    def _place(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _blocks(self, split: Split, block: int, done: Collection[int]) -> DataLoader[Batch]:
        rank, world = self._place()
        return self._loader(
            split, BlockBatches(len(split), block, done=done, rank=rank, world=world)
        )

    def _loader(self, split: Split, batches: Sampler[list[int]]) -> DataLoader[Batch]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            split,
            batch_sampler=batches,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=on_gpu,
        )


def _as_it_is(batch: Any) -> Any:
    return batch
