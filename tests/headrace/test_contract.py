"""The API does what its OpenAPI document says, whatever it is asked: the short form of `python -m tests.fuzz.api`."""

from __future__ import annotations

import re

from features.embedded import EmbeddedRedis
from headrace.loading import load
from models.deployment import topics_of
from streams.embedded import EmbeddedKafka
from tests.fuzz.api import kept_contract
from tests.headrace.conftest import PAYMENTS
from tests.headrace.test_serve_limits import served


def test_every_answer_is_one_that_the_document_has() -> None:
    with (
        EmbeddedKafka.start(topics_of(load(PAYMENTS).project)) as kafka,
        EmbeddedRedis.start() as redis,
        served(kafka.bootstrap, redis.url) as url,
    ):
        done = kept_contract(url, examples=12, seed=1)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Tested: +(\d+)", done.stdout) is not None
    asked = re.search(r"(\d+) generated, \1 passed", done.stdout)
    assert asked is not None, done.stdout
    assert int(asked[1]) > 500
