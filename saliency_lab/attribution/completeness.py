"""How far attributions are from summing to the change of the logit that they explain."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from saliency_lab.attribution.field import ClassField


class BaselineField(ClassField, Protocol):
    """A class field that claims completeness with respect to a baseline."""

    baseline_logits: Tensor
    """Logits at the baseline (their mean where there are several), shape (B, K), detached."""


def completeness_error(field: BaselineField, classes: Tensor) -> Tensor:
    """abs(sum of attributions − (S_c(image) − S_c(baseline))) per image.

    The axiom is Sundararajan et al. 2017, proposition 1 (integrated gradients), and Shrikumar et
    al. 2017, equation 1 (DeepLIFT).

    Args:
        field: from `integrated_gradients`, `gradient_shap` or `deeplift`.
        classes: int64, shape (B,).

    Returns:
        Shape (B,), in units of the logit, non-negative; 0 for a complete attribution.
    """
    classes = classes.to(field.logits.device)[:, None]
    difference = (field.logits - field.baseline_logits).gather(1, classes)[:, 0]
    return (field.of(classes[:, 0]).flatten(1).sum(1) - difference).abs()
