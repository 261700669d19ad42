from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt

from saliency_lab.config.binding import bound_arguments, built, requirement
from saliency_lab.errors import UserError

HERE = __name__


def target(
    size: Annotated[int, Gt(0)],
    *,
    mode: Literal["black", "white"] = "black",
    share: Annotated[float, Ge(0), Le(1)] = 0.5,
    names: Sequence[str] | None = None,
    pair: tuple[float, float] = (0.9, 0.999),
    inner: Any = None,
    generator: object = None,
) -> dict[str, Any]:
    return dict(locals())


def open_ended(**settings: Any) -> dict[str, Any]:
    return settings


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Tests are no package; the targets are found under a name all the same."""
    import sys

    monkeypatch.setitem(sys.modules, "targets_of_this_test", sys.modules[HERE])


def component(**arguments: Any) -> dict[str, Any]:
    return {"_target_": "targets_of_this_test.target", **arguments}


def test_arguments_are_bound_and_converted():
    found = built(component(size=3, pair=[0.5, 0.6], names=["a"], share=1), "group", generator=7)
    assert found["size"] == 3
    assert found["pair"] == (0.5, 0.6)
    assert isinstance(found["share"], float)
    assert found["generator"] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "Expected `g.size` to be an integer greater than 0, but got 0"),
        ({"size": "x"}, "Expected `g.size` to be an integer greater than 0, but got 'x'"),
        ({"size": 1.5}, "Expected `g.size` to be an integer greater than 0, but got 1.5"),
        ({"size": None}, "Expected `g.size` to be an integer greater than 0, but got None"),
        ({}, "Expected `g.size` to be given, but it is missing"),
        (
            {"size": 1, "mode": "blck"},
            "Expected `g.mode` to be one of black, white, but got 'blck'. Did you mean 'black'?",
        ),
        (
            {"size": 1, "share": 2},
            "Expected `g.share` to be a number at least 0 and at most 1, but got 2",
        ),
        (
            {"size": 1, "names": "abc"},
            "Expected `g.names` to be a list, each text, or null, but got 'abc'",
        ),
        (
            {"size": 1, "pair": [0.1]},
            "Expected `g.pair` to be a list of 2: a number, a number, but got [0.1]",
        ),
        (
            {"size": 1, "moed": "black"},
            "Unknown key `g.moed`: expected one of inner, mode, names, pair, share, size. "
            "Did you mean 'mode'?",
        ),
        ({"size": 1, "generator": 3}, "Unknown key `g.generator`"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(UserError) as error:
        bound_arguments(component(**arguments), "g", ("generator",))
    assert str(error.value).startswith(message)


def test_targets_that_are_nowhere():
    for name in ("nowhere.at.all", "math.nothing", "no_dots", ""):
        with pytest.raises(UserError, match=r"`g\._target_`"):
            built({"_target_": name}, "g")
    with pytest.raises(UserError, match="`_target_`"):
        built({"name": "x"}, "g")


def test_the_name_is_the_programs_where_the_target_has_none():
    assert built({"_target_": "targets_of_this_test.open_ended", "name": "x", "y": 1}, "g") == {
        "y": 1
    }


def test_nested_components():
    inner = component(size=2)
    found = built(component(size=1, inner=inner), "g")
    assert found["inner"]["size"] == 2
    partial = built(component(size=1, inner={**inner, "_partial_": True}), "g")["inner"]
    assert isinstance(partial, functools.partial)
    assert partial(mode="white")["mode"] == "white"
    with pytest.raises(UserError, match=r"`g\.inner\.size`"):
        built(component(size=1, inner=component(size=-1)), "g")
    with pytest.raises(UserError, match=r"`g\.inner\.colour`"):
        # A partial would fail late otherwise, or never.
        built(component(size=1, inner={**component(colour=1), "_partial_": True}), "g")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[float, Ge(0), Lt(1)], "a number at least 0 and less than 1"),
        (Annotated[int, Gt(0)] | Literal["auto"], "an integer greater than 0, or auto"),
        (bool | Literal["warn"], "true or false, or warn"),
        (Sequence[Literal["a", "b"]], "a list, each one of a, b"),
        (tuple[int, ...], "a list, each an integer"),
        (Path | None, "a path, or null"),
    ],
)
def test_annotations_in_words(annotation, words):
    assert requirement(annotation) == words
