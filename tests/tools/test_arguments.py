"""The hash that an approval is bound to."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perdure.tools.arguments import args_sha256, canonical_json

ARGUMENTS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def test_the_hash_is_the_one_anybody_can_compute() -> None:
    assert canonical_json({"b": [1, "ä"], "a": None}) == '{"a":null,"b":[1,"ä"]}'
    wanted = hashlib.sha256('{"a":null,"b":[1,"ä"]}'.encode()).hexdigest()
    assert args_sha256({"b": [1, "ä"], "a": None}) == wanted


@given(ARGUMENTS)
def test_the_order_of_members_and_a_way_through_json_change_nothing(arguments: dict[str, Any]) -> None:
    turned = dict(reversed(arguments.items()))
    assert args_sha256(turned) == args_sha256(arguments)
    assert args_sha256(json.loads(json.dumps(arguments))) == args_sha256(arguments)


@given(ARGUMENTS, ARGUMENTS)
def test_other_arguments_have_another_hash(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (args_sha256(one) == args_sha256(other)) is same


def test_what_is_no_text_still_has_a_hash() -> None:
    assert args_sha256({"a": "\ud800"}) != args_sha256({"a": "\ud801"})
    assert len(args_sha256('{"half": ')) == 64
