"""Settings of how a frozen model is run, and the model made ready by them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn

from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.frozen import (
    checked_logits,
    frozen,
    intact_logits,
    placed_images,
    unshared,
    without_autocast,
)
from saliency_lab.inference.agreement import sign_agreement, unsteadiness
from saliency_lab.inference.copies import UNABLE, fast_copy, float32_by, own_copy
from saliency_lab.inference.folding import first_line
from saliency_lab.inference.memory import PartSize, fitting_batch, free_bytes, image_bytes
from saliency_lab.inference.screening import Screen, cheap_copy, masked_sample
from saliency_lab.inputs import given_images, given_model, taking

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Engine:
    """Settings; `prepare` makes a model ready.

    Args:
        precision: `fp32` computes in single precision with TF32 off; `tf32` allows it on GPUs;
            `bf16` computes in bfloat16.
        frozen_copy: run a copy with folded batch norms in channels-last layout and, on the CPU,
            with packed and fused convolutions. The copy is used only where it agrees.
        compile: compile the forward of masked images (torch.compile); pays on long runs only.
        screen: low precision that decides the clear cases of masked images; `off` for none.
        calibration: masked images on which the screen's threshold is found.
        maps_batch, scores_batch: images at once for maps, and masked images per forward; None
            finds them from the free memory.
    """

    def __init__(
        self,
        precision: Literal["fp32", "tf32", "bf16"] = "fp32",
        frozen_copy: bool = True,
        compile: bool = False,
        screen: Literal["off", "int8", "bf16"] = "off",
        calibration: Annotated[int, Ge(1)] = 4096,
        maps_batch: Annotated[int, Ge(1)] | None = None,
        scores_batch: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        if precision not in ("fp32", "tf32", "bf16"):
            raise unknown_choice("engine.precision", precision, ("fp32", "tf32", "bf16"))
        if screen not in ("off", "int8", "bf16"):
            raise unknown_choice("engine.screen", screen, ("off", "int8", "bf16"))
        self.precision, self.frozen_copy, self.compile = precision, frozen_copy, compile
        self.screen = screen
        self.calibration = calibration
        self.maps_batch, self.scores_batch = maps_batch, scores_batch

    def prepare(self, model: nn.Module, images: Tensor) -> PreparedModel:
        """The model made ready; `images` (B, C, H, W) are a first batch that copies are tried on.

        The model itself is left unchanged. It is asked wherever no fast copy can be, as by sources
        that read layers, so it must not change while it is in use; `prepared` copies it first.
        """
        return PreparedModel(self, model, images)


def prepared(
    model: nn.Module,
    images: Tensor,
    *,
    precision: Literal["fp32", "tf32", "bf16"] = "fp32",
    screen: Literal["off", "int8", "bf16"] = "off",
) -> PreparedModel:
    """A model made fast for many maps and curves of images like these.

    `sl.explain`, `sl.measure`, `sl.deletion_curve` and the other functions that score images take
    it in place of the model. It is a copy: later changes of the model do not reach it. Where no
    copy answers as the model does (hooks of its own change what its layers give, or its state
    cannot be copied), `reason` says why, and the model itself is asked as it is then. As a context
    it lets go of the fast copies at the end.

    Args:
        model: from images (B, C, H, W) to logits (B, K).
        images: (B, C, H, W) in [0, 1]; a first batch, on which copies are tried and batch sizes
            found.
        precision, screen: see `Engine`.

    Raises:
        UserError: no module, images that it does not take, or an impossible setting.
    """
    engine = Engine(precision=precision, screen=screen)
    if isinstance(model, PreparedModel):
        raise UserError(
            "Expected `model` to be a torch.nn.Module, but got one that sl.prepared has made ready."
        )
    network, pixels = given_model(model), given_images(images, None)
    with taking(network, pixels):
        return engine.prepare(own_copy(network, pixels), pixels)


class PreparedModel:
    """A model ready to be explained and scored on many masked images.

    Attributes:
        original: the model as it was given, or what `prepared` copied of it; for sources that need
            its layers.
        model: the copy that maps are computed with; its input gradients are the model's.
        reason: why there is no folded copy, or None.
        agreement: share of the first batch on which the copy and the model predict the same.
        signs: with precision bf16, `bfloat16.sign_agreement` on the first batch, else None.
    """

    def __init__(self, engine: Engine, model: nn.Module, images: Tensor) -> None:
        self._engine = engine
        self.original = model
        self.reason: str | None = None if engine.frozen_copy else "engine.frozen_copy=false"
        self.signs: float | None = None
        with torch.inference_mode(False), self.numerics():
            sample = placed_images(model, images).clone()
            expected = intact_logits(model, sample)
            if unsteady := unsteadiness(model, sample, expected):
                log.warning("the model's logits of an image %s, and so do all results", unsteady)
            self.model, self._forward = self._copies(sample)
            found = intact_logits(self.model, sample)
            self.agreement = float((found.argmax(1) == expected.argmax(1)).float().mean())
            self._screen = self._screening(sample)
            self._maps, self._scores = self._part_sizes(sample)

    def __enter__(self) -> PreparedModel:
        return self

    def __exit__(self, *exception: object) -> None:
        """Let go of the fast copies; `original` goes on being there."""
        self.reason = "the copies were let go of"
        self.model = self._forward = self.original
        self._screen = None

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (n, K) float32 of images, in the engine's precision, without gradients."""
        return self.logits(images)

    @property
    def maps_batch(self) -> int:
        """Images that maps are computed of at once."""
        return self._maps.size

    @property
    def scores_batch(self) -> int:
        """Masked images per forward."""
        return self._scores.size

    def alike(self, other: nn.Module, images: Tensor) -> nn.Module:
        """Another network as this one is run for maps: its fast copy, if this one has one.

        Args:
            other: of the same architecture, such as a support model of GAD; left unchanged.
            images: (B, C, H, W) in [0, 1], on which the copy is tried.

        Raises:
            ValueError: a copy that does not agree with the network.
        """
        if self.reason is not None:
            return other
        with torch.inference_mode(False), self.numerics():
            return fast_copy(other, placed_images(other, images).clone(), self._engine.precision)[1]

    def maps(self, compute: Callable[[slice], Result], count: int) -> list[Result]:
        """`compute` of consecutive slices of `count` images, each as large as memory allows."""
        with self.numerics():
            return self._maps.parts(compute, count)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (n, K) float32 in the engine's precision, without the screen."""
        return self._run(self._exact, images)

    def scores(self, images: Tensor) -> Tensor:
        """Logits (n, K) float32 of masked images, through the screen if there is one.

        For `masked_scores`, with its `batch_size` set to `scores_batch`.
        """
        return self._run(self._screen or self._exact, images)

    def report(self) -> dict[str, object]:
        """How the model was run, for the summary: plain numbers, strings and dicts."""
        found: dict[str, object] = {
            "precision": self._engine.precision,
            "copy": self.reason or "folded",
            "agreement": self.agreement,
            "maps_batch": self.maps_batch,
            "scores_batch": self.scores_batch,
        }
        if self.signs is not None:
            found["gradient_signs"] = self.signs
        if self._screen is not None:
            found["screen"] = {"kind": self._engine.screen, **self._screen.report()}
        return found

    def resume(self, report: Mapping[str, Any]) -> None:
        """Screen by the decisions that another process reported, as on the images before these."""
        screen = report.get("screen")
        if self._screen is not None and isinstance(screen, Mapping):
            self._screen.resume(screen)

    @contextlib.contextmanager
    def numerics(self) -> Iterator[None]:
        """TF32 on or off on GPUs as the precision says, and as it was afterwards; no autocast."""
        with without_autocast(), float32_by("tf32" if self._engine.precision == "tf32" else "ieee"):
            yield

    def _run(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        with torch.no_grad(), self.numerics():
            parts = self._scores.parts(lambda rows: forward(images[rows]), len(images))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _exact(self, images: Tensor) -> Tensor:
        # A copy is frozen for good, and looking at each of its layers takes time at every batch.
        with frozen(self._forward) if self.reason else contextlib.nullcontext():
            placed = placed_images(self._forward, images)
            # Model and copy may work in place.
            placed = unshared(placed.contiguous(memory_format=torch.channels_last), images)
            if self._engine.compile:
                return self._padded(placed).float().to(images.device)
            return checked_logits(self._forward(placed), len(placed)).float().to(images.device)

    def _padded(self, images: Tensor) -> Tensor:
        """The compiled forward, which is made for one batch size only."""
        size, count = self._scores.size, len(images)
        if count < size:
            images = torch.cat([images, images.new_zeros(size - count, *images.shape[1:])])
            images = images.contiguous(memory_format=torch.channels_last)
        return checked_logits(self._forward(images), len(images))[:count]

    def _copies(self, sample: Tensor) -> tuple[nn.Module, nn.Module]:
        """The model for maps and the one for scores."""
        model, forward = self.original, self.original
        if self.reason is None:
            try:
                folded, model = fast_copy(self.original, sample, self._engine.precision)
                forward = model
                if self._engine.precision == "bf16":
                    self.signs = sign_agreement(model, self.original, sample)
            except UNABLE as error:
                self.reason = first_line(error)
                log.warning("cannot build the fast copy, running the model itself: %s", self.reason)
        if self._engine.precision == "bf16" and self.reason is not None:
            raise UserError(
                "Expected `engine.precision` to be fp32 or tf32 where there is no folded copy "
                f"({self.reason}), but got 'bf16'."
            )
        if self._engine.compile:
            plain = self.original if self.reason else folded
            forward = cast(nn.Module, torch.compile(plain, dynamic=False))
        return model, forward

    def _screening(self, sample: Tensor) -> Screen | None:
        kind = self._engine.screen
        if kind == "off":
            return None
        if kind == self._engine.precision:
            log.warning("screen off: everything is computed in %s", kind)
            return None
        try:
            masked = masked_sample(sample)
            cheap = cheap_copy(self.original, kind, masked)
            with torch.no_grad():  # both run once before they are timed
                cheap(masked)
                self._exact(masked)
        except UNABLE as error:
            log.warning("screen off: %s", first_line(error))
            return None
        return Screen(cheap, self._exact, self._engine.calibration)

    def _part_sizes(self, sample: Tensor) -> tuple[PartSize, PartSize]:
        device, pixels = sample.device, sample.shape[2] * sample.shape[3]
        with frozen(self.model):
            taken = image_bytes(self.model, placed_images(self.model, sample[:1]))
        free = free_bytes(device)
        given = {"maps": self._engine.maps_batch, "scores": self._engine.scores_batch}
        sizes = {
            stage: size or fitting_batch(taken[stage], free, pixels, device)
            for stage, size in given.items()
        }
        log.info("%d images at once for maps, %d for scores", sizes["maps"], sizes["scores"])
        return PartSize("maps", sizes["maps"]), PartSize("scores", sizes["scores"])
