"""As many samples per image as a stated error takes, around any source that draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, cast

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from saliency_lab.attribution.core.estimate import Estimate, EstimatedMaps, Rounds
from saliency_lab.attribution.core.field import (
    ClassField,
    expect_every_class,
    input_gradients_only,
)
from saliency_lab.attribution.core.random_streams import SampleGenerator, restarted
from saliency_lab.attribution.core.sources import (
    source_name,
    source_output,
    takes_targets,
)
from saliency_lab.attribution.core.summed_field import TABLE_CLASSES
from saliency_lab.attribution.methods.rise import rise
from saliency_lab.attribution.methods.smoothgrad import smoothgrad
from saliency_lab.errors import UserError
from saliency_lab.frozen import intact_logits


@input_gradients_only
def adaptive(
    model: nn.Module,
    images: Tensor,
    *,
    base: Callable[..., ClassField] = smoothgrad,
    error: Annotated[float, Gt(0), Lt(1)] = 0.2,
    least: Annotated[int, Gt(1)] = 4,
    most: Annotated[int, Gt(1)] = 64,
    generator: SampleGenerator | None = None,
) -> AdaptiveField:
    """Mean over independent rounds of a base, until its standard error is small enough.

    A round is the base with its own number of samples and random numbers of its own. Each image
    stops by itself, when the relative standard error of the predicted class's field (`Rounds`) is
    at most `error`; all other classes then have as many rounds, from the same draws.

    Args:
        model: any module from images to logits (B, K).
        images: shape (B, C, H, W), in [0, 1].
        base: a class-field source that draws: smoothgrad, gradient_shap, ….
        error: the largest relative standard error to stop at.
        least, most: rounds of each image. With few rounds the error is known roughly, and stopping
            takes the lucky ones: with 4 it is met on average, not by each image. A base that draws
            nothing takes `least`, with an error of 0.
        generator: one stream per image.

    Returns:
        Signed field in the units of the base, with an `estimate` of its errors. It claims no
        completeness.

    Raises:
        UserError: the base gives maps (`adaptive_map` takes those); `most` is less than `least`.
    """
    if takes_targets(base):
        raise UserError(
            "Expected `base` to be a source of a signed field per class, but got "
            f"{source_name(base)}, which gives maps; use method=adaptive_map."
        )
    _check_order(least, most)
    return AdaptiveField(model, images, base, error, least, most, generator)


@input_gradients_only
def adaptive_map(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    base: Callable[..., Tensor] = rise,
    error: Annotated[float, Gt(0), Lt(1)] = 0.2,
    least: Annotated[int, Gt(1)] = 4,
    most: Annotated[int, Gt(1)] = 64,
    generator: SampleGenerator | None = None,
) -> EstimatedMaps:
    """`adaptive` around a source of maps: rise, lime, kernel_shap, smoothgrad_squared, vargrad.

    The error is that of the map less its mean over the pixels, which no order depends on. What a
    base estimates with a bias (LIME's ridge, VarGrad of few samples), it does in every round.

    Arguments as in `adaptive`.

    Returns:
        Shape (B, H, W), float32, in the units of the base, with the estimate of its errors.

    Raises:
        UserError: the base gives a class field (`adaptive` takes those), or errors of its own;
            `most` is less than `least`.
    """
    if not takes_targets(base):
        raise UserError(
            "Expected `base` to be a source of one map per class, but got "
            f"{source_name(base)}, which gives a signed field; use method=adaptive."
        )
    _check_order(least, most)
    streams = restarted(generator, images)
    rounds = Rounds(images[:, 0].float(), centred=True)

    def drawn(at: Tensor, number: int) -> None:
        place = at.to(images.device)
        own = _of_round(streams, at, number)
        values = source_output(base, model, images[place], targets[place], generator=own)
        if not isinstance(values, Tensor):
            raise UserError(
                f"Expected `base` to give maps alone, but got {type(values).__name__} of "
                f"{source_name(base)}."
            )
        rounds.add(at, values.to(rounds.mean))

    return EstimatedMaps(*_until_exact(rounds, drawn, error, least, most))


def _check_order(least: int, most: int) -> None:
    if most < least:
        raise UserError(
            f"Expected `method.most` to be at least `method.least` ({least}), but got {most}."
        )


def _of_round(streams: SampleGenerator, at: Tensor, number: int) -> SampleGenerator:
    """Streams of a round, of the images at these places: the same beside whichever others."""
    ids = [f"{streams.sample_ids[place]}/round-{number}" for place in at.tolist()]
    return SampleGenerator(streams.seed, ids)


def _until_exact(
    rounds: Rounds, drawn: Callable[[Tensor, int], None], error: float, least: int, most: int
) -> tuple[Tensor, Estimate]:
    """Draw rounds of the images that need them; the means, and what is known of their errors."""
    at = torch.arange(len(rounds.count))
    for number in range(most):
        drawn(at, number)
        if number + 1 >= least:
            at = at[rounds.error()[at] > error]
        if not len(at):
            break
    return rounds.mean, Estimate(rounds.error(), rounds.count)


class AdaptiveField:
    """The mean field over each image's own number of rounds.

    The predicted class decides the numbers, when anything is asked for the first time. Other
    classes repeat the rounds: with few classes of which all are expected in one pass for all.

    Args:
        As in `adaptive`.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        base: Callable[..., ClassField],
        error: float,
        least: int,
        most: int,
        generator: SampleGenerator | None,
    ) -> None:
        self._model, self._images, self._base = model, images.detach(), base
        self._error, self._least, self._most = error, least, most
        self._streams = restarted(generator, images)
        self.logits = intact_logits(model, images).to(images.device)
        self._predicted = self.logits.argmax(1)
        self._tabulated = False
        self._rounds: Rounds | None = None
        self._table: list[Tensor] = []

    def expect_every_class(self) -> None:
        """Sum for all classes, if they are few, once one beside the predicted is asked for."""
        self._tabulated = self.logits.shape[1] <= TABLE_CLASSES

    @property
    def estimate(self) -> Estimate:
        """Of the predicted class's field."""
        rounds = self._known()
        return Estimate(rounds.error(), rounds.count)

    def of(self, classes: Tensor) -> Tensor:
        """Signed attribution of logit `classes[b]` of image b, shape (B, C, H, W)."""
        classes = classes.to(self.logits.device)
        mean, own = self._known().mean, classes == self._predicted
        if bool(own.all()):
            return mean.clone()
        if not self._tabulated:
            (found,) = self._means([classes])
        else:
            if not self._table:
                every = range(self.logits.shape[1])
                self._table = self._means([torch.full_like(classes, one) for one in every])
            found = torch.stack([self._table[c][b] for b, c in enumerate(classes.tolist())])
        # The same numbers for the same image, whatever is asked about its neighbours.
        found[own] = mean[own]
        return found

    def _known(self) -> Rounds:
        if self._rounds is None:
            rounds = Rounds(self._images, centred=False)

            def drawn(at: Tensor, number: int) -> None:
                place = at.to(self._predicted.device)
                rounds.add(at, self._round(at, number).of(self._predicted[place]))

            _until_exact(rounds, drawn, self._error, self._least, self._most)
            self._rounds = rounds
        return self._rounds

    def _round(self, at: Tensor, number: int) -> ClassField:
        images, own = self._images[at.to(self._images.device)], _of_round(self._streams, at, number)
        return cast(ClassField, source_output(self._base, self._model, images, generator=own))

    def _means(self, questions: Sequence[Tensor]) -> list[Tensor]:
        """The means for several classes per image, from the same draws."""
        counts = self._known().count
        totals = [torch.zeros_like(self._images) for _ in questions]
        for number in range(int(counts.max())):
            at = (counts > number).nonzero()[:, 0]
            place = at.to(self._images.device)
            field = self._round(at, number)
            if len(questions) > 1:
                expect_every_class(field)
            for total, classes in zip(totals, questions, strict=True):
                total[place] += field.of(classes[place])
        shares = counts.to(self._images).view(-1, 1, 1, 1)
        return [total.div_(shares) for total in totals]
