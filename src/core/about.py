"""What the keys of a run.json hold."""

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

Number = Annotated[int, Field(ge=0, le=10**12)]


class About(TypedDict, total=False):
    """Further keys may hold anything."""

    config: dict[str, Any]
    data: str
    synthetic: bool
    digest: str
    split: str
    dtype: str
    threads: Number
    devices: Number
    classes: list[str]
    counts: list[Number]
    rows: Number
    prior: list[float]
    seed: Number
    parameters: dict[str, Number]
    normalisation: dict[str, list[float]]
    versions: dict[str, str]
    commit: str | None
    machine: str
    state: str
    timings: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    best_epoch: Number | None
    predicted: Annotated[list[int | str | None], Field(min_length=1)]
    joined: list[Number]
    sums: dict[str, str]


def wrong(about: dict) -> list[str]:
    """The keys of a run.json that hold something of another kind, or lists of another length than `classes`."""
    try:
        TypeAdapter(About).validate_python(about, strict=True)
    except ValidationError as error:
        return sorted({str(fault["loc"][0]) for fault in error.errors()})
    sizes = {key: len(about[key]) for key in ("counts", "prior") if key in about and "classes" in about}
    return [key for key, size in sizes.items() if size != len(about["classes"])]
