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
from saliency_lab.frozen import checked_logits, frozen, intact_logits, placed_images
from saliency_lab.inference.agreement import gradient_distance, sign_agreement
from saliency_lab.inference.bfloat16 import bf16_model
from saliency_lab.inference.folding import folded_copy, packed_copy
from saliency_lab.inference.memory import PartSize, fitting_batch, free_bytes, image_bytes
from saliency_lab.inference.screening import Screen, cheap_copy

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# How far the logits of a copy may be from the model's, relative to the largest logit above 1.
_AGREEMENT = 1e-4
# How far its gradients may be, relative to their norm. Rounding gives about 1e-6, and up to 1e-2
# where it decides for a ReLU or a max-pool. What tracing does not see (a backward of one's own,
# no_grad in the model, hooks of the backward) changes most of a gradient.
_GRADIENTS = 0.1
# What tracing, folding and packing raise on models that they cannot follow.
_UNABLE = (
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    KeyError,
    AssertionError,
)


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

        The model itself is left unchanged and may be changed afterwards without effect.
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

    `sl.explain`, `sl.deletion_curve` and `sl.measure` take it in place of the model. It is a copy:
    later changes of the model do not reach it. As a context it lets go of the copies at the end.

    Args:
        model: from images (B, C, H, W) to logits (B, K).
        images: (B, C, H, W) in [0, 1]; a first batch, on which copies are tried and batch sizes
            found.
        precision, screen: see `Engine`.

    Raises:
        UserError: images that the model does not take, or an impossible setting.
    """
    return Engine(precision=precision, screen=screen).prepare(model, images)


class PreparedModel:
    """A model ready to be explained and scored on many masked images.

    Attributes:
        original: the model as it was given; for sources that need its layers.
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
            self.model, self._forward = self._copies(sample)
            found = intact_logits(self.model, sample)
            self.agreement = float((found.argmax(1) == expected.argmax(1)).float().mean())
            self._screen = self._screening(sample)
            self._maps, self._scores = self._part_sizes(sample)

    def __enter__(self) -> PreparedModel:
        return self

    def __exit__(self, *exception: object) -> None:
        """Let go of the copies; the model itself goes on being there."""
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
            return self._folded_and_fast(other, placed_images(other, images).clone())[1]

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
        """TF32 on or off on GPUs as the precision says, and as it was afterwards."""
        with _float32("tf32" if self._engine.precision == "tf32" else "ieee"):
            yield

    def _run(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        with torch.no_grad(), self.numerics():
            parts = self._scores.parts(lambda rows: forward(images[rows]), len(images))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _exact(self, images: Tensor) -> Tensor:
        # A copy is frozen for good, and looking at each of its layers takes time at every batch.
        with frozen(self._forward) if self.reason else contextlib.nullcontext():
            placed = placed_images(self._forward, images)
            placed = placed.contiguous(memory_format=torch.channels_last)
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
                folded, model = self._folded_and_fast(self.original, sample)
                forward = model
                if self._engine.precision == "bf16":
                    self.signs = sign_agreement(model, self.original, sample)
            except _UNABLE as error:
                self.reason = str(error).strip().splitlines()[0]
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

    def _folded_and_fast(self, model: nn.Module, sample: Tensor) -> tuple[nn.Module, nn.Module]:
        """The folded copy and the one to run, once they have been seen to agree."""
        with _float32("ieee"):
            expected = intact_logits(model, sample)
            folded = folded_copy(model)
            packed = packed_copy(folded, sample) if sample.device.type == "cpu" else folded
            _check(packed, model, sample, expected)
        return folded, bf16_model(folded, sample) if self._engine.precision == "bf16" else packed

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
        except _UNABLE as error:
            log.warning("screen off: %s", str(error).strip().splitlines()[0])
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


@contextlib.contextmanager
def _float32(precision: Literal["tf32", "ieee"]) -> Iterator[None]:
    """How GPUs multiply in float32, for a while."""
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = precision
        yield
    finally:
        for switch, own in zip(switches, before, strict=True):
            switch.fp32_precision = own


def _check(copy: nn.Module, model: nn.Module, sample: Tensor, expected: Tensor) -> None:
    """Refuse a copy whose logits or input gradients are not the model's.

    Args:
        expected: the model's logits from before it was copied; one that counts its calls differs.
    """
    found = intact_logits(copy, sample)
    scale = max(1.0, float(expected.abs().max()))
    difference = float((found - expected).abs().max()) / scale
    if not difference <= _AGREEMENT:
        raise ValueError(f"its logits differ by {difference:.1e} from the model's")
    distance = gradient_distance(copy, model, sample)
    if not distance <= _GRADIENTS:
        raise ValueError(f"its gradients differ by {distance:.0%} from the model's")


def masked_sample(images: Tensor, limit: int = 256) -> Tensor:
    """Images like those of deletion curves: intact, and with random pixels black or white.

    The masks come from a stream of their own, so the process's random state is not touched.
    """
    images = images[: max(1, limit // 4)]
    stream = torch.Generator().manual_seed(0)
    height, width = images.shape[2:]
    drawn = torch.rand(2, len(images), 1, height, width, generator=stream)
    shares = torch.rand(2, len(images), 1, 1, 1, generator=stream)
    gone = (drawn < shares).to(images.device)
    return torch.cat([images, images.masked_fill(gone[0], 0), images.masked_fill(gone[1], 1)])
