"""Errors name what a person wrote."""

from __future__ import annotations

import pytest

from saliency_lab.errors import UserError, in_section


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Expected `stride` to be at most `window`, but `model` has `window`",
            "Expected `method.stride` to be at most `method.window`, but `model` has "
            "`method.window`",
        ),
        ("Expected one of `window` and `rule`", "Expected one of `method.window` and `rule`"),
        ("Expected `model` to have a `window`", "Expected `model` to have a `window`"),
        ("Expected `method.window` to be 1", "Expected `method.window` to be 1"),
        ("Unknown `window`", "Unknown `window`"),
    ],
)
def test_settings_get_their_section_where_an_error_is_about_one(said: str, told: str) -> None:
    with pytest.raises(UserError) as caught, in_section("method", ("window", "stride")):
        raise UserError(said)
    assert str(caught.value) == told


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), in_section("method", ("window",)):
        raise KeyError("Expected `window`")
