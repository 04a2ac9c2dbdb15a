"""Tools of a shop: one that nobody may repeat, one that a person must allow."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from perdure.tools import tool


@tool
def charge(amount: Annotated[int, Field(ge=1)], customer: str) -> str:
    """Charge a customer."""
    return f"charged {amount} to {customer}"


@tool(approval=True)
def ship(parcel: str) -> str:
    """Send a parcel away."""
    return f"sent {parcel}"
