"""A classifier of many classes, asked about two of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from saliency_lab.errors import UserError, unknown_choice


class PairNetwork(nn.Module):
    """The logits of two classes of a network: images (B, C, H, W) to (B, 2).

    Args:
        network: from images to logits (B, K).
        first, second: the two classes, each in [0, K).
    """

    def __init__(self, network: nn.Module, first: int, second: int) -> None:
        super().__init__()
        self.network = network
        self.first, self.second = first, second

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits[:, [self.first, self.second]]


def class_pair(names: Sequence[str], wanted: Sequence[str] | None) -> tuple[int, int]:
    """The numbers of a pair of classes; of the only two where None are named.

    Args:
        names: of a model's classes, in the order of its logits.
        wanted: two of them.

    Raises:
        UserError: an unknown class, the same one twice, or none named of more than two.
    """
    if wanted is None:
        if len(names) != 2:
            raise UserError(
                "Expected `method.classes` to name two classes, because the model has "
                f"{len(names)}, but got null"
            )
        return 0, 1
    for name in wanted:
        if name not in names:
            raise unknown_choice("method.classes", name, names)
    if len(wanted) != 2 or wanted[0] == wanted[1]:
        raise UserError(
            f"Expected `method.classes` to be two different classes, but got [{', '.join(wanted)}]"
        )
    return names.index(wanted[0]), names.index(wanted[1])
