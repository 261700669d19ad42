"""The shape of a finished run's summary.json, checked as it is read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class Interval(BaseModel):
    """A share with its confidence interval."""

    value: float
    low: float | None = None
    high: float | None = None


class Data(BaseModel):
    name: str
    split: str = "test"
    images: int | dict[str, int] | None = None
    classes: list[str] = []
    fingerprint: str = ""


class Model(BaseModel):
    name: str
    parameters: int | None = None


class Area(BaseModel):
    method: str
    view: str
    mode: str
    fill: str
    score: str = "allegiance"
    area: float
    low: float
    high: float


class Side(BaseModel):
    method: str
    view: str


class Comparison(BaseModel):
    a: Side
    b: Side
    mode: str
    fill: str
    score: str = "allegiance"
    difference: float
    low: float
    high: float
    p: float | None = None
    p_holm: float | None = None


class EvaluationSummary(BaseModel):
    status: Literal["finished"]
    data: Data
    model: Model
    seed: int
    control: bool = False
    checkpoint: dict[str, Any] | None = None
    accuracy: Interval | None = None
    protocol: str
    fractions: list[float] = Field(min_length=2)
    areas: list[Area]
    comparisons: list[Comparison] = []
    cost: dict[str, dict[str, Any]] = {}
    skipped: dict[str, Any] = {}
    seconds: float = 0.0


class TrainingSummary(BaseModel):
    status: Literal["finished"]
    data: Data
    model: Model
    seed: int
    epochs: int | None = None
    test: dict[str, Any] = {}
    train: dict[str, Any] = {}
    best: dict[str, Any] | None = None
    confusion: list[list[int]] | None = None
    seconds: float = 0.0
