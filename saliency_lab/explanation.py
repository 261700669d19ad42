"""Maps by name, without configuration files of one's own: the face for notebooks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.sources import Source, reads_layers, source_name
from saliency_lab.attribution.core.views import Channels, View
from saliency_lab.attribution.maps import BatchMaps, maps, require_finite, view_names
from saliency_lab.config.binding import bound_arguments
from saliency_lab.config.location import config_directory
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.explained import Maps
from saliency_lab.inference.engine import PreparedModel
from saliency_lab.inputs import (
    UNIT,
    PixelRange,
    given_images,
    given_model,
    given_sample_ids,
    given_seed,
    given_targets,
    taking,
)

Method = str | Callable[..., Any]

_OLDER_NAMES = {"paper": "five_views"}


@dataclass(frozen=True)
class _Request:
    """One entry of `methods`: under `label`, the `views` of the source that `key` identifies."""

    label: str
    key: object
    views: tuple[View, ...]


def explain(
    model: nn.Module | PreparedModel,
    images: Tensor,
    methods: Sequence[Method] | Method = ("original", "active"),
    targets: Tensor | int | None = None,
    *,
    pixel_range: PixelRange | None = UNIT,
    channels: Channels = "max",
    competitors: int | None = None,
    seed: int = 42,
    sample_ids: Sequence[str | int] | None = None,
) -> Maps:
    """Saliency maps of a batch by several methods; views of one source share its computation.

    Args:
        model: from images (B, C, H, W) to logits (B, K); left as it was, its mode included. What
            `sl.prepared` gives is several times as fast.
        images: floating (B, C, H, W), pixels in [0, 1]; a tensor or a NumPy array. For a model of
            normalised images see `saliency_lab.inputs.normalized`.
        methods: names, as on the command line ("active", "smoothgrad"), a view of a source
            ("smoothgrad/active"), or functions that are sources themselves. "five_views" stands
            for the five gradient maps, each under its own name.
        targets: the classes to explain, int64 (B,), or one for all; None: the predicted ones.
        pixel_range: what the pixels must be in, where another range than [0, 1] is meant; None
            for no check.
        channels, competitors: see `saliency_lab.attribution.core.views.views`.
        seed, sample_ids: what the random numbers of an image depend on; ids are 0 ... B − 1
            unless given.

    Returns:
        A dict, which a notebook draws: one map (B, H, W) float32 per name, detached, unscaled, on
        the images' device (float64 for float64 views). A function is listed under its own name, a
        further one of the same name as NAME-2 and so on.

    Raises:
        UserError: an unknown method or view, images, targets or logits that do not fit, pixels
            out of range, a seed or ids that are no whole numbers (ids may be text).
        NonFiniteError: NaN or infinity in the logits or maps; it names the samples.
    """
    ready = model if isinstance(model, PreparedModel) else None
    network = given_model(model) if ready is None else ready.original
    images = given_images(images, pixel_range, adjustable=True)
    listed = listed_methods(methods)
    classes = given_targets(targets, len(images))
    seed, ids = given_seed(seed), given_sample_ids(sample_ids, len(images))
    sources: dict[object, Source] = {}
    requests = _distinct([r for method in listed for r in _requests(method, sources)])
    found: dict[str, Tensor] = {}
    for key, source in sources.items():
        own = [request for request in requests if request.key == key]
        names = tuple(dict.fromkeys(view for request in own for view in request.views))

        def compute(rows: slice, source: Source = source, names: Any = names) -> BatchMaps:
            asked = network if ready is None or reads_layers(source) else ready.model
            return maps(
                asked,
                images[rows],
                source,
                names,
                None if classes is None else classes[rows],
                channels=channels,
                competitors=competitors,
                generator=SampleGenerator(seed, ids[rows]),
            )

        with taking(network, images):
            whole = slice(0, len(images))
            parts = [compute(whole)] if ready is None else ready.maps(compute, len(images))
        batch = BatchMaps.joined(parts)
        require_finite(batch.finite, ids)
        for request in own:
            for view in request.views:
                label = request.label if len(request.views) == 1 else view
                found[label] = batch.maps[view]
    shown = {label: found[label] for request in requests for label in _labels(request)}
    return Maps(shown, images, [str(name) for name in ids])


def listed_methods(methods: object) -> list[Method]:
    """One or several methods as a list.

    Raises:
        UserError: they are neither.
    """
    if isinstance(methods, str) or callable(methods):
        return [methods]
    if isinstance(methods, Iterable):
        return list(methods)
    raise UserError(
        "Expected `methods` to be a method's name, a function or several of them, but got "
        f"{methods!r}."
    )


def _distinct(requests: list[_Request]) -> list[_Request]:
    """The requests with a label of its own for every function: NAME, NAME-2 and so on."""
    owners: dict[str, object] = {
        label: request.key
        for request in requests
        if isinstance(request.key, str)
        for label in _labels(request)
    }
    distinct = []
    for request in requests:
        label, number = request.label, 1
        while not isinstance(request.key, str) and owners.setdefault(label, request.key) is not (
            request.key
        ):
            number += 1
            label = f"{request.label}-{number}"
        distinct.append(replace(request, label=label))
    return distinct


def _labels(request: _Request) -> tuple[str, ...]:
    return (request.label,) if len(request.views) == 1 else request.views


def _requests(method: Method, sources: dict[object, Source]) -> list[_Request]:
    if not isinstance(method, str):
        sources.setdefault(method, method)
        return [_Request(source_name(method), method, ("original",))]
    name, slash, view = method.partition("/")
    name = _OLDER_NAMES.get(name, name)
    source, views = named_method(name)
    sources.setdefault(source, source_function(source))
    if slash:
        views = view_names(sources[source], (view,))  # type: ignore[arg-type]  # checked in views
    return [_Request(method, source, views)]


def method_names() -> list[str]:
    """Every name that `explain` and `method=` know, sorted."""
    return sorted(file.stem for file in (config_directory() / "method").glob("*.yaml"))


def named_method(name: str) -> tuple[str, tuple[View, ...]]:
    """The source and the views behind a method's name: "active" is ("gradient", ("active",)).

    A file with a `_target_` is a source, seen through original. A shorthand is a defaults list
    that picks a source and overrides the view.

    Raises:
        UserError: there is no such method.
    """
    settings = _settings("method", name)
    if "_target_" in settings:
        return name, ("original",)
    source = name
    views: tuple[View, ...] = ("original",)
    for entry in settings.get("defaults", ()):
        if isinstance(entry, str) and entry.endswith("@method"):
            source = entry.removesuffix("@method")
        elif isinstance(entry, dict) and "override /view" in entry:
            names = _settings("view", entry["override /view"])["names"]
            views = view_names(source_function(source), names)
    if "_target_" not in _settings("method", source):
        raise UserError(f"Expected `method` {name} to name a source, but got '{source}'.")
    return source, views


def source_function(name: str) -> Source:
    """The source that conf/method/<name>.yaml describes, its settings bound."""
    given = ("model", "images", "targets", "generator")
    found, settings = bound_arguments(_settings("method", name), "method", given)
    return functools.partial(found, **settings) if settings else found


def _settings(group: str, name: str) -> dict[str, Any]:
    directory = config_directory() / group
    names = sorted(file.stem for file in directory.glob("*.yaml"))
    if name not in names:
        raise unknown_choice(group, name, names)
    return yaml.safe_load((directory / f"{name}.yaml").read_text(encoding="utf-8")) or {}
