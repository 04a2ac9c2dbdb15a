"""docs/settings.md lists every setting with its environment variable, its place in perdure.toml and its default."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from perdure.settings import Settings
from tests.house.tree import ROOT

Row = tuple[str, str, str]


def shown(field: FieldInfo) -> str:
    """The default as the page shows it: TOML's spelling, ``–`` for none, ``required``."""
    if field.default is PydanticUndefined and field.default_factory is None:
        return "required"
    match field.get_default(call_default_factory=True):
        case None:
            return "–"
        case Path() as path:
            return f"`{path}`"
        case str() as text:
            return f"`{text}`" if text else "empty"
        case [] | {}:
            return "empty"
        case value:
            return f"`{json.dumps(value)}`"


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of ``[table]`` fields and of ``[table.NAME]`` fields."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def rows_of_the_code() -> Iterator[Row]:
    for name, field in Settings.model_fields.items():
        table = table_of(field)
        if table is None:
            yield f"`PERDURE_{name.upper()}`", f"`{name}`", shown(field)
        elif isinstance(field.get_default(), dict):
            for key, inner in table.model_fields.items():
                yield "–", f"`[{name}.NAME]` `{key}`", shown(inner)
        else:
            for key, inner in table.model_fields.items():
                yield f"`PERDURE_{name.upper()}__{key.upper()}`", f"`[{name}]` `{key}`", shown(inner)


def rows_of_the_page() -> Iterator[Row]:
    for line in (ROOT / "docs" / "settings.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[1].startswith("`") and cells[0] != "environment":
            yield cells[0], cells[1], cells[2]


def test_the_settings_page_lists_every_setting_with_its_default() -> None:
    page, code = set(rows_of_the_page()), set(rows_of_the_code())
    assert {"missing from the page": code - page, "only on the page": page - code} == {
        "missing from the page": set(),
        "only on the page": set(),
    }


def test_the_settings_page_lists_nothing_twice() -> None:
    rows = [toml for _, toml, _ in rows_of_the_page()]
    assert len(rows) == len(set(rows))


def test_the_comparison_sees_plain_settings_tables_and_named_tables() -> None:
    assert ("`PERDURE_API_PORT`", "`api_port`", "`8600`") in set(rows_of_the_code())
    assert ("`PERDURE_LIMITS__MAX_TURNS`", "`[limits]` `max_turns`", "`100`") in set(rows_of_the_code())
    assert ("–", "`[endpoints.NAME]` `base_url`", "required") in set(rows_of_the_code())
