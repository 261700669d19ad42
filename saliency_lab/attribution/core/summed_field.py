"""Class fields that are a sum over many passes, none of which is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

Term = Callable[[Tensor], Tensor]

# Up to this many classes, a second question is answered by one pass that sums for all of them.
TABLE_CLASSES = 16


class StreamedField:
    """The sum of terms that are made anew each time, so that memory does not grow with them.

    A term maps classes (B,) to attributions (B, C, H, W). The first call of `of` sums for the
    asked classes alone. With few classes, a second call, or the first after `expect_every_class`,
    sums for all classes in one pass over the terms and keeps the K sums (at most 16 times the
    size of the images), since the forwards are then paid once instead of once per class; with
    many classes each call is a pass of its own.

    Args:
        logits: shape (B, K), detached.
        terms: gives the same terms each time it is called.
        baseline_logits: shape (B, K), where the field claims completeness; None where not.
    """

    def __init__(
        self,
        logits: Tensor,
        terms: Callable[[], Iterator[Term]],
        baseline_logits: Tensor | None = None,
    ) -> None:
        self.logits = logits
        self.baseline_logits = baseline_logits
        self._terms = terms
        self._many_asked = False
        self._table: list[Tensor] = []

    def expect_every_class(self) -> None:
        """Sum for all classes at the first call already."""
        self._many_asked = True

    def of(self, classes: Tensor) -> Tensor:
        """Signed attribution of logit `classes[b]` of image b, shape (B, C, H, W)."""
        classes = classes.to(self.logits.device)
        count = self.logits.shape[1]
        if not self._many_asked or count > TABLE_CLASSES:
            self._many_asked = True
            return _sums(self._terms(), [classes])[0]
        if not self._table:
            self._table = _sums(
                self._terms(), [torch.full_like(classes, index) for index in range(count)]
            )
        chosen = torch.empty_like(self._table[0])
        for index in range(count):
            chosen[classes == index] = self._table[index][classes == index]
        return chosen


def _sums(terms: Iterable[Term], questions: list[Tensor]) -> list[Tensor]:
    totals: list[Tensor] = []
    for term in terms:
        for position, classes in enumerate(questions):
            if position == len(totals):
                totals.append(term(classes))
            else:
                totals[position] = totals[position] + term(classes)
    return totals
