"""Which samples a classifier was trained on, as its checkpoint carries it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FACT = "trained_samples"
"""The name of the list among a checkpoint's facts."""


def sample_digests(ids: Sequence[str]) -> Tensor:
    """The ids as ascending 64-bit digests, int64 (N,): eight bytes for each.

    Of 50,000 ids and 50,000 others one pair has the same digest with a chance of about 10⁻¹⁰.
    """
    return torch.from_numpy(np.unique(_digests(ids)))


def joined_digests(*parts: Tensor) -> Tensor:
    """All digests of several lists, ascending, each once."""
    return torch.from_numpy(np.unique(np.concatenate([part.numpy() for part in parts])))


def trained_samples(facts: Mapping[str, Any], ids: Sequence[str]) -> NDArray[np.bool] | None:
    """Which of these samples the classifier was trained on.

    The held-out validation share was not trained on. An image is known by its id alone: one that
    was copied to another path is not found out.

    Args:
        facts: those of a checkpoint (`Classifier.facts`).
        ids: N sample ids, as `ImageData.ids` gives them.

    Returns:
        bool (N,); None for a checkpoint that carries no list.
    """
    digests = facts.get(FACT)
    return None if digests is None else np.isin(_digests(ids), digests.numpy())


def _digests(ids: Sequence[str]) -> NDArray[np.int64]:
    encoded = (sample_id.encode("utf-8", "surrogateescape") for sample_id in ids)
    whole = b"".join(hashlib.blake2b(one, digest_size=8).digest() for one in encoded)
    return np.frombuffer(whole, dtype="<i8").astype(np.int64)
