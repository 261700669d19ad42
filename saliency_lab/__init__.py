"""Train image classifiers, compute signed and multi-class saliency maps, measure them.

The names below are loaded when they are first used, so importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "explain": "saliency_lab.explanation",
    "prepared": "saliency_lab.inference.engine",
    "measure": "saliency_lab.measurement",
    "maps": "saliency_lab.attribution.maps",
    "views": "saliency_lab.attribution.core.views",
    "VIEWS": "saliency_lab.attribution.core.views",
    "gradient": "saliency_lab.attribution.methods.gradient",
    "SampleGenerator": "saliency_lab.attribution.core.random_streams",
    "deletion_curve": "saliency_lab.evaluation.deletion.curves",
    "curves": "saliency_lab.evaluation.deletion.mean_curves",
    "masked_scores": "saliency_lab.evaluation.deletion.curves",
    "deletion_levels": "saliency_lab.evaluation.deletion.removal",
    "area_under_curve": "saliency_lab.evaluation.deletion.removal",
    "PAPER_FRACTIONS": "saliency_lab.evaluation.deletion.removal",
    "STANDARD_FRACTIONS": "saliency_lab.evaluation.deletion.removal",
    "normalized": "saliency_lab.inputs",
    "localisation": "saliency_lab.evaluation.localisation.scores",
    "fill_images": "saliency_lab.imputation.fills",
    "road": "saliency_lab.imputation.linear",
    "relevance_gain": "saliency_lab.evaluation.relevance_gain.orders",
    "mu_fidelity": "saliency_lab.evaluation.mu_fidelity.subsets",
    "infidelity": "saliency_lab.evaluation.infidelity.perturbations",
    "sensitivity_n": "saliency_lab.evaluation.sensitivity_n.pixels",
    "prediction_gaps": "saliency_lab.evaluation.pgi_pgu.gaps",
    "sparseness": "saliency_lab.evaluation.complexity.concentration",
    "entropy": "saliency_lab.evaluation.complexity.concentration",
    "effective_area": "saliency_lab.evaluation.complexity.concentration",
    "max_sensitivity": "saliency_lab.evaluation.max_sensitivity.changes",
    "confidence_sequence": "saliency_lab.evaluation.rows.sequences",
    "bootstrap_interval": "saliency_lab.evaluation.rows.intervals",
    "paired_difference": "saliency_lab.evaluation.rows.significance",
    "seeds_interval": "saliency_lab.evaluation.rows.intervals",
    "relative_complexity": "saliency_lab.evaluation.hull.hulls",
    "relative_sensitivity": "saliency_lab.evaluation.hull.sensitivity",
    "convex_hulls": "saliency_lab.evaluation.hull.hulls",
    "important_pixels": "saliency_lab.attribution.core.importance",
    "gad": "saliency_lab.attribution.methods.gad",
    "UserError": "saliency_lab.errors",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names; what this file imports and its submodules are none of them."""
    return sorted({*_HOMES, *(name for name in globals() if name.startswith("__"))})
