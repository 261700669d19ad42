"""How far attributions are from summing to the logit, or the change of it, that they explain."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from saliency_lab.attribution.core.field import ClassField
from saliency_lab.errors import UserError


class BaselineField(ClassField, Protocol):
    """A class field that may claim completeness with respect to a baseline."""

    baseline_logits: Tensor | None
    """Logits at the baseline (their mean where there are several), shape (B, K), detached; 0 for
    relevances, which are to sum to the logit itself (LRP's conservation); None where nothing is
    claimed."""


def completeness_error(field: BaselineField, classes: Tensor) -> Tensor:
    """abs(sum of attributions − (S_c(image) − S_c(baseline))) per image.

    The axiom is Sundararajan et al. 2017, proposition 1 (integrated gradients), and Shrikumar et
    al. 2017, equation 1 (DeepLIFT); with a baseline logit of 0 it is the conservation of Bach et
    al. 2015, equation 2 (LRP).

    Args:
        field: from `integrated_gradients`, `gradient_shap`, `deeplift`, `lrp` or `attn_lrp`.
        classes: int64, shape (B,).

    Returns:
        Shape (B,), in units of the logit, non-negative; 0 for a complete attribution.

    Raises:
        UserError: a field that claims no completeness.
    """
    change = explained_change(field, classes)
    if change is None:
        raise UserError("Expected `field` to have a baseline to be complete about, but got none.")
    return (field.of(classes).flatten(1).sum(1) - change).abs()


def explained_change(field: ClassField, classes: Tensor) -> Tensor | None:
    """What a complete field sums to, S_c(image) − S_c(baseline), shape (B,); None if unclaimed."""
    baseline: Tensor | None = getattr(field, "baseline_logits", None)
    if baseline is None:
        return None
    classes = classes.to(field.logits.device)[:, None]
    return (field.logits - baseline).gather(1, classes)[:, 0]
