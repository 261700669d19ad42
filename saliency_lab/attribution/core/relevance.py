"""How one layer hands the relevance of its output to its input: the rules of LRP.

The backward signal of a recorded graph is relevance here, not a slope. A rule is a sum of terms:
a term is an altered input x̃ and altered parameters w̃, b̃; with z = Σ ± (w̃ x̃ + b̃) it gives
R_in = Σ ± x̃ ⊙ w̃ᵀ (R / z).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Below this distance from 0 a denominator is noise; as in zennit, it is added with the sign of z.
STABILISER = 1e-6

Layer = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Stabilised = Callable[[Tensor], Tensor]


class Affine(NamedTuple):
    """What a layer computes: `layer(x, weight, bias)`, linear in x and affine in all."""

    layer: Layer
    x: Tensor
    weight: Tensor
    bias: Tensor | None

    def scaled(self, scale: Tensor, shift: Tensor) -> Affine:
        """The layer followed by scale · y + shift per output channel: a batch norm merged in."""
        weight = self.weight * scale.view(-1, *[1] * (self.weight.dim() - 1))
        bias = shift if self.bias is None else self.bias * scale + shift
        return self._replace(weight=weight, bias=bias)


class Term(NamedTuple):
    """± layer(x, weight, bias)."""

    sign: int
    x: Tensor
    weight: Tensor
    bias: Tensor | None


RelevanceRule = Callable[[Affine, Tensor], Tensor]
"""From a layer and the relevance of its output to that of its input."""


def stabilised(z: Tensor) -> Tensor:
    """z, further away from 0 by `STABILISER`."""
    return z + torch.where(z < 0, -STABILISER, STABILISER)


def distributed(
    layer: Layer, terms: list[Term], relevance: Tensor, denominator: Stabilised = stabilised
) -> Tensor:
    """The relevance of a layer's output, shared among its inputs in proportion to terms."""
    # Behind a ReLU no input is negative: half the terms of most rules are 0 and cost as much.
    terms = [term for term in terms if term.bias is not None or bool(term.x.any())] or terms[:1]
    inputs = [term.x.detach().requires_grad_(True) for term in terms]
    with torch.enable_grad():
        z = sum(
            term.sign * layer(x, term.weight, term.bias)
            for term, x in zip(terms, inputs, strict=True)
        )
    share = relevance / denominator(z.detach())
    slopes = torch.autograd.grad(z, inputs, share)
    return sum(x.detach() * slope for x, slope in zip(inputs, slopes, strict=True))


def epsilon_rule(denominator: Stabilised) -> RelevanceRule:
    """R_j = Σ_k x_j w_jk / (z_k + ε sign z_k) R_k (Bach et al. 2015, equation 58)."""

    def rule(affine: Affine, relevance: Tensor) -> Tensor:
        layer, x, weight, bias = affine
        return distributed(layer, [Term(1, x, weight, bias)], relevance, denominator)

    return rule


def alpha_beta_rule(alpha: float, beta: float) -> RelevanceRule:
    """α parts of the positive contributions minus β of the negative (Bach et al. 2015, eq. 60).

    The bias counts as a contribution of its own. z⁺ is α = 1, β = 0.
    """

    def rule(affine: Affine, relevance: Tensor) -> Tensor:
        layer, x, weight, bias = affine
        raising, lowering = _signed_terms(x, (weight, bias))
        received = alpha * distributed(layer, raising, relevance)
        if beta:
            received = received - beta * distributed(layer, lowering, relevance)
        return received

    return rule


def gamma_rule(gamma: float) -> RelevanceRule:
    """Contributions of the output's own sign count 1 + γ times (Montavon et al. 2019, section
    10.2.3; for inputs and outputs of both signs as in zennit's Gamma).
    """

    def rule(affine: Affine, relevance: Tensor) -> Tensor:
        layer, x, weight, bias = affine
        up = _strengthened((weight, bias), gamma, min=0)
        down = _strengthened((weight, bias), gamma, max=0)
        with torch.no_grad():
            z = layer(x, weight, bias)
        above = [Term(1, x.clamp(min=0), *up), Term(1, x.clamp(max=0), down[0], None)]
        below = [Term(1, x.clamp(min=0), *down), Term(1, x.clamp(max=0), up[0], None)]
        return distributed(layer, above, relevance * (z > 0)) + distributed(
            layer, below, relevance * (z < 0)
        )

    return rule


def w_square_rule(affine: Affine, relevance: Tensor) -> Tensor:
    """R_j = Σ_k w_jk² / Σ_j w_jk² R_k (Montavon et al. 2017, equation 12)."""
    layer, x, weight, bias = affine
    squared = None if bias is None else bias.square()
    return distributed(layer, [Term(1, torch.ones_like(x), weight.square(), squared)], relevance)


def flat_rule(affine: Affine, relevance: Tensor) -> Tensor:
    """The same share for every input of a unit (Lapuschkin et al. 2017, section 2.3)."""
    layer, x, weight, _ = affine
    return distributed(
        layer, [Term(1, torch.ones_like(x), torch.ones_like(weight), None)], relevance
    )


def box_rule(low: Tensor, high: Tensor) -> RelevanceRule:
    """z^B: inputs lie between bounds (1, C, H, W) (Montavon et al. 2017, equation 15)."""

    def rule(affine: Affine, relevance: Tensor) -> Tensor:
        layer, x, weight, bias = affine
        ends = [
            Term(-1, low.expand_as(x), *_clamped((weight, bias), min=0)),
            Term(-1, high.expand_as(x), *_clamped((weight, bias), max=0)),
        ]
        return distributed(layer, [Term(1, x, weight, bias), *ends], relevance)

    return rule


class Redistributed(torch.autograd.Function):
    """A given value forward; backward, what a rule makes of the relevance that arrives."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, shares: Callable[[Tensor], tuple[Tensor, ...]], *inputs: Tensor
    ) -> Tensor:
        ctx.shares = shares
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.shares(arriving[0]))


def _signed_terms(
    x: Tensor, parameters: tuple[Tensor, Tensor | None]
) -> tuple[list[Term], list[Term]]:
    """The terms of all positive and of all negative contributions."""
    up, down = _clamped(parameters, min=0), _clamped(parameters, max=0)
    positive, negative = x.clamp(min=0), x.clamp(max=0)
    raising = [Term(1, positive, *up), Term(1, negative, down[0], None)]
    lowering = [Term(1, positive, *down), Term(1, negative, up[0], None)]
    return raising, lowering


def _clamped(
    parameters: tuple[Tensor, Tensor | None], **ends: float
) -> tuple[Tensor, Tensor | None]:
    weight, bias = parameters
    return weight.clamp(**ends), None if bias is None else bias.clamp(**ends)


def _strengthened(
    parameters: tuple[Tensor, Tensor | None], gamma: float, **ends: float
) -> tuple[Tensor, Tensor | None]:
    """Parameters plus γ times their part between the ends."""
    weight, bias = parameters
    part, bias_part = _clamped(parameters, **ends)
    return weight + gamma * part, None if bias is None else bias + gamma * bias_part
