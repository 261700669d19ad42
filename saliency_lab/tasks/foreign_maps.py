"""The method that reads its maps from a file: opened and checked for the images of a run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from saliency_lab.attribution.core.stored_maps import opened_maps
from saliency_lab.attribution.methods.file import needs_file, stored_maps
from saliency_lab.config.location import config_directory
from saliency_lab.errors import UserError
from saliency_lab.evaluation.context import Method


def require_file(source: functools.partial[object], name: str) -> None:
    """Nothing, or what is wrong with the file of maps, before anything else is loaded.

    Raises:
        UserError: `method.maps` is not given, not there, or of another form; or the name is that
            of a method of this program, as which its maps would be shown.
    """
    if not needs_file(source):
        return
    own = {path.stem for path in (config_directory() / "method").glob("*.yaml")} - {"file"}
    if name in own:
        raise UserError(
            "Expected `method.name` to be a name of your own for maps from a file, but "
            f"'{name}' is a method of this program"
        )
    maps, ids = source.keywords.get("maps"), source.keywords.get("ids")
    if maps is None:
        raise UserError("Expected `method.maps` to be given with method=file, but it is null")
    opened_maps(Path(maps).expanduser(), None if ids is None else Path(ids).expanduser())


def with_stored_maps(
    method: Method, order: Sequence[str] | None, input_shape: tuple[int, int, int]
) -> Method:
    """The method with its file's maps, if it has one.

    Args:
        method: any.
        order: ids of all images that are measured, in the data set's order; None: not known.
        input_shape: (C, H, W).

    Raises:
        UserError: the maps do not fit the images, or are not finite.
    """
    source = method.source
    if not needs_file(source):
        return method
    keywords = getattr(source, "keywords", {})
    stored = stored_maps(keywords.get("maps"), keywords.get("ids"), order, input_shape[1:])
    return dataclasses.replace(method, source=functools.partial(source, stored=stored))
