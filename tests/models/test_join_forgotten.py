"""Whom a request names."""

from __future__ import annotations

import pytest
from msgspec import Struct

from features import Entity, Source
from features.forgetting import name_of
from features.source import key_text
from models.join_forgotten import naming


class Ride(Struct, frozen=True):
    id: str
    city: str
    driver: int
    at: int


class Refund(Struct, frozen=True):
    id: str
    shop: str
    at: int


rides = Source("naming.rides.v1", Ride, id=Ride.id, time=Ride.at)
entities = [
    Entity("driver", by=Ride.driver),
    Entity("place", by=(Ride.city, Ride.driver)),
    Entity("shop", by=Refund.shop),
    Entity("driver", by=Refund.shop),  # another of the same name, which is not in a ride
]


def test_a_request_names_the_entities_that_are_in_it_as_their_states_do() -> None:
    named = naming(rides, entities)
    assert set(named(b'{"id":"a","city":"A|b","driver":7,"at":1}')) == {
        name_of("driver", "7"),
        name_of("place", key_text(("A|b", 7))),
    }


@pytest.mark.parametrize("event", [b"{}", b'{"id":"a","town":"B","driver":7,"at":1}', b"[1]"])
def test_an_event_of_another_definition_names_nobody(event: bytes) -> None:
    assert not naming(rides, entities)(event)
