"""The data module: a COCO-format folder in, batches for training and validation out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from ifpn.bounds import Ge, Gt, Le, Length, Probability, Rate, check
from ifpn.data.augment import Augment
from ifpn.data.check import class_remarks, counted, crowding_remarks, quick_check, split_remarks
from ifpn.data.coco.annotations import Categories, CocoAnnotations, load_annotations
from ifpn.data.coco.defects import DataError, DefectPolicy
from ifpn.data.coco.layout import SplitPaths, choose_folder, find_split
from ifpn.data.dataset import CocoDataset, ImageReading, Item, collate
from ifpn.data.held_back import empty_groups, held_back, left_out
from ifpn.data.sampler import ResumableBatchSampler, ShardSampler, repeat_factors

log = logging.getLogger(__name__)


@check
class DetectionData(LightningDataModule):
    """Training and validation data of a folder of images and annotations (layouts: `ifpn.data.coco.layout`).

    The Trainer must be made with `use_distributed_sampler=False`: the samplers here know about ranks.

    Args:
        root: the folder; relative paths start at the working directory.
        batch_size: images per device and batch.
        seed: of order and augmentation; batch k is a function of (seed, k, rank, world size) and nothing else.
        workers: loader processes per device; their number changes no result.
        generate: called with the folder before it is read, e.g. to draw the built-in data (`ifpn.data.Shapes`).
        augment: of training images.
        policy: what is done about defects of annotation files.
        reading: how image files are read.
        train_annotations: the training file, relative to root; None: looked for. So the other three paths.
        train_images: folder of the training images.
        val_annotations: the validation file.
        val_images: folder of the validation images.
        val_share: share of the training images that is held back for validation, chosen by their names, whatever
            validation file there is; 0: no validation; None: the validation file.
        classes: names of the classes to use; boxes of others are left out. None: all.
        train_empty_images: whether images without usable boxes are trained on.
        repeat_threshold: classes in a smaller share of the training images are shown more often (`repeat_factors`).
        group_by_aspect: batches of wide, and of not wide, images.
        drop_last: see `ResumableBatchSampler`.
        max_detections: detections of an image and class that an evaluation looks at.
        follow_links: whether links may lead out of the folder.
        cache: "memory" keeps decoded images in one mapped file that all runs on them share (`ImageCache`).
        cache_gib: the most that it may take.
        check: whether missing files and wrong sizes are looked for before training (seconds).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        batch_size: Annotated[int, Ge(1), Le(4096)],
        seed: Annotated[int, Ge(0), Le(2**31 - 1)],
        workers: Annotated[int, Ge(0), Le(1024)] = 2,
        generate: Callable[[Path], object] | None = None,
        augment: Augment | None = None,
        policy: DefectPolicy | None = None,
        reading: ImageReading | None = None,
        train_annotations: str | None = None,
        train_images: str | None = None,
        val_annotations: str | None = None,
        val_images: str | None = None,
        val_share: Rate | None = None,
        classes: Annotated[Sequence[str], Length(1)] | None = None,
        train_empty_images: bool = False,
        repeat_threshold: Probability = 0.0,
        group_by_aspect: bool = True,
        drop_last: bool = True,
        max_detections: Annotated[int, Ge(10), Le(10_000)] = 100,
        follow_links: bool = False,
        cache: Literal["memory"] | None = None,
        cache_gib: Annotated[float, Gt(0), Le(4096)] = 4.0,
        check: bool = True,
    ) -> None:
        super().__init__()
        self.root = Path(root).expanduser()
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.generate = generate
        self.augment = Augment() if augment is None else augment
        self.policy = DefectPolicy() if policy is None else policy
        self.reading = ImageReading() if reading is None else reading
        self.train_annotations, self.train_images = train_annotations, train_images
        self.val_annotations, self.val_images = val_annotations, val_images
        self.val_share, self.classes = val_share, None if classes is None else [str(name) for name in classes]
        self.train_empty_images, self.group_by_aspect = train_empty_images, group_by_aspect
        self.repeat_threshold, self.max_detections = repeat_threshold, max_detections
        self.cache_gib = None if cache is None else cache_gib
        self.drop_last, self.follow_links, self.check = drop_last, follow_links, check
        self.train_sampler: ResumableBatchSampler | None = None
        self._position: int | Callable[[], int] = 0
        self._categories: Categories | None = None
        self._validation_only = False
        self._training_file: CocoAnnotations | None = None
        self._train: CocoDataset | None = None
        self._val: CocoDataset | None = None
        self._described: set[str] = set()  # Lightning calls `setup` again

    def __str__(self) -> str:
        """Return one line: the folder, and what has been read of it."""
        parts = [f"{name} {len(data)} images" for name, data in (("train", self._train), ("val", self._val)) if data]
        return f"{self.root} ({', '.join([*parts, f'{self.num_classes} classes'])})"

    # ---- classes

    @property
    def categories(self) -> Categories:
        """Classes of the training file (of the validation file if there is no training file)."""
        if self._categories is None:
            data = self.train_dataset if self._has_train() else self.val_dataset
            self._categories = data.annotations.categories
        return self._categories

    def use_categories(self, category_ids: list[int], class_names: list[str]) -> None:
        """Use these classes (of a checkpoint); the training file then need not be read, or exist."""
        if len(category_ids) != len(class_names) or sorted(set(category_ids)) != list(category_ids):
            raise ValueError(
                f"category_ids={category_ids}, class_names={class_names}: allowed are increasing ids, one name each"
            )
        if self._train is not None or self._val is not None:
            raise RuntimeError("use_categories must be called before any data is read")
        self._categories = Categories(tuple(category_ids), tuple(class_names))

    def use_validation_categories(self) -> None:
        """Take the classes from the validation file: the training file is not read, and need not exist."""
        if self._train is not None or self._val is not None:
            raise RuntimeError("use_validation_categories must be called before any data is read")
        self._validation_only = True

    @property
    def num_classes(self) -> int:
        """Number of classes K; labels are 0..K-1."""
        return len(self.categories.ids)

    @property
    def class_names(self) -> list[str]:
        """Names of classes 0..K-1."""
        return list(self.categories.names)

    @property
    def category_ids(self) -> list[int]:
        """Official category ids of classes 0..K-1."""
        return list(self.categories.ids)

    # ---- data

    def prepare_data(self) -> None:
        """Draw the built-in data if that is what this is: once per machine, before anything reads it."""
        if self.generate is not None:
            self.generate(self.root)

    def setup(self, stage: str | None = None) -> None:
        """Read the annotation files a stage needs ("fit", "validate", "test"; None = all); check them."""
        if stage in (None, "fit"):
            self._describe("train", self.train_dataset)
        if stage in ("validate", "test") and not self.has_validation:
            raise DataError("data.val_share=0: there are no validation images. Hold some back: data.val_share=0.1")
        if self.has_validation:
            self._describe("val", self.val_dataset)
        if stage in (None, "fit") and self.has_validation and "both" not in self._described:
            self._described.add("both")
            for line in split_remarks(self.train_dataset, self.val_dataset):
                log.warning("%s", line)

    @property
    def has_validation(self) -> bool:
        """Whether there are validation images."""
        return self.val_share != 0

    @property
    def train_dataset(self) -> CocoDataset:
        """Training images, augmented; without boxes only if `train_empty_images`."""
        if self._train is None:
            annotations, paths = self._read_training_file(), self._paths("train")
            wanted = ~held_back(annotations.file_names(), self.val_share or 0)
            if not self.train_empty_images:
                wanted &= annotations.boxes_per_image() > 0
            if not wanted.any():
                raise DataError(
                    f"{paths.annotations} has no image with a usable box: there is nothing to train on"
                    + left_out(annotations)
                )
            self._train = self._dataset(annotations, paths, np.flatnonzero(wanted), self.augment)
        return self._train

    def plain_training_images(self, count: int) -> Iterator[Tensor]:
        """At most `count` training images from all over the set, (3, H, W) uint8, as evaluation would read them."""
        data = self.train_dataset
        chosen = np.unique(np.linspace(0, len(data) - 1, count).round().astype(int))
        plain = self._dataset(data.annotations, self._paths("train"), data.images[chosen], None)
        return (plain[i][0] for i in range(len(plain)))

    @property
    def val_dataset(self) -> CocoDataset:
        """All validation images, each once, as they are; none with `val_share=0`."""
        if self._val is None:
            paths = self._paths("val" if self.val_share is None else "train")
            if self.val_share is None:
                known = self._categories
                if known is None and self._has_train():
                    known = self.train_dataset.annotations.categories
                annotations = self._load(paths, known, False)
            else:
                whole = self._read_training_file()
                annotations = whole.select_images(np.flatnonzero(held_back(whole.file_names(), self.val_share)))
            self._val = self._dataset(annotations, paths, np.arange(len(annotations)), None)
        return self._val

    @property
    def val_annotation_file(self) -> Path:
        """The validation annotation file as the user wrote it."""
        return self._paths("val" if self.val_share is None else "train").annotations

    def val_ground_truth(self) -> dict[str, list[dict[str, Any]]]:
        """Return the checked validation ground truth for pycocotools, official ids, crowd regions included."""
        return self.val_dataset.annotations.to_coco()

    def _has_train(self) -> bool:
        if self._validation_only and self.val_share is None:
            return False
        try:
            self._paths("train")
        except DataError:
            if self.train_annotations is not None:
                raise
            return False
        return True

    def _paths(self, split: str) -> SplitPaths:
        self.prepare_data()  # a glance if the data is there; classes are asked for before any Trainer exists
        annotations, images = (
            (self.train_annotations, self.train_images) if split == "train" else (self.val_annotations, self.val_images)
        )
        unsplit = split == "train" and self.val_share is not None
        return find_split(
            self.root,
            split,
            annotations=annotations,
            images=images,
            follow_links=self.follow_links,
            unsplit=unsplit,
        )

    def _load(self, paths: SplitPaths, categories: Categories | None, boxes_required: bool = True) -> CocoAnnotations:
        return load_annotations(
            paths.annotations,
            policy=self.policy,
            split=paths.split,
            categories=categories,
            classes=self.classes,
            boxes_required=boxes_required,
            measure=paths.measure,
        )

    def _read_training_file(self) -> CocoAnnotations:
        """The training file, without categories that are only the name of a group and have no box in either split."""
        if self._training_file is None:
            found = self._load(self._paths("train"), self._categories)
            if found.parents and self._categories is None and self.classes is None:
                found = found.select_classes(
                    set(found.categories.ids) - set(empty_groups(found, self._validation_file()))
                )
            self._training_file = found
        return self._training_file

    def _validation_file(self) -> CocoAnnotations | None:
        """The validation file with its own classes; None if there is none, or it is refused when it is read itself."""
        try:
            return self._load(self._paths("val"), None, False) if self.val_share is None else None
        except DataError:
            return None

    def _dataset(
        self,
        annotations: CocoAnnotations,
        paths: SplitPaths,
        images: np.ndarray[Any, Any],
        augment: Augment | None,
    ) -> CocoDataset:
        return CocoDataset(
            annotations,
            choose_folder(paths, annotations.file_names()),
            boundary=paths.boundary,
            images=images,
            augment=augment,
            seed=self.seed,
            reading=self.reading,
            cache_gib=self.cache_gib,
        )

    def _describe(self, split: str, data: CocoDataset) -> None:
        """Say once what is in a split, and what is wrong with it."""
        if split in self._described:
            return
        self._described.add(split)
        log.info("%s: %s", split, counted(data))
        found, lines = data.annotations, []
        if split == "train" or self.val_share is None:
            lines += found.log.report(self.policy)
        lines += class_remarks(found) if split == "train" else crowding_remarks(found, self.max_detections)
        for line in lines:
            log.warning("%s: %s", found.path, line)
        if self.check:
            quick_check(data)

    # ---- loaders

    @property
    def position(self) -> int:
        """Absolute number of the training batch with which the next epoch, or the rest of one, begins.

        May be set to a number, or to a function that is asked whenever an iteration begins.
        """
        if self.train_sampler is not None:
            return self.train_sampler.first_batch
        return self._position() if callable(self._position) else self._position

    @position.setter
    def position(self, k: int | Callable[[], int]) -> None:
        if not callable(k) and k < 0:
            raise ValueError(f"position={k}: allowed are batch numbers from 0 on")
        self._position = k
        if self.train_sampler is not None:
            self.train_sampler.first_batch = k

    def _ranks(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def batches_per_epoch(self, world_size: int) -> int:
        """Training batches of every rank in an epoch."""
        return len(self._sampler(0, world_size))

    def _sampler(self, rank: int, world_size: int) -> ResumableBatchSampler:
        data = self.train_dataset
        return ResumableBatchSampler(
            len(data),
            self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            groups=data.aspect_group() if self.group_by_aspect else None,
            weights=self._weights(data) if self.repeat_threshold else None,
            drop_last=self.drop_last,
        )

    def _weights(self, data: CocoDataset) -> np.ndarray[Any, np.dtype[np.float64]]:
        found = data.annotations.select_images(data.images)
        return repeat_factors(found.owner()[found.usable], found.label[found.usable], len(data), self.repeat_threshold)

    def train_dataloader(self) -> DataLoader[Item]:
        """Training batches from `position` on; `len` is that of a whole epoch."""
        rank, world_size = self._ranks()
        data = self.train_dataset
        self.train_sampler = self._sampler(rank, world_size)
        self.train_sampler.first_batch = self._position
        return DataLoader(
            data,
            batch_sampler=self.train_sampler,
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: making an iterator must not draw from the global one
        )

    def val_dataloader(self) -> DataLoader[Item] | list[DataLoader[Item]]:
        """Validation batches: every image once over all ranks, in the file's order; none without validation images."""
        if not self.has_validation:
            return []
        rank, world_size = self._ranks()
        return DataLoader(
            self.val_dataset,
            batch_size=self.batch_size,
            sampler=ShardSampler(len(self.val_dataset), rank=rank, world_size=world_size),
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    test_dataloader = val_dataloader
