"""Snapshots: sealed, checked before they are read, and opened as the learner that they were."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import hmac
import io
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import (
    anomaly,
    compose,
    ensemble,
    feature_extraction,
    forest,
    linear_model,
    multiclass,
    neighbors,
    preprocessing,
    tree,
)

from models.canonical import canonical_bytes
from models.errors import (
    ClassRefused,
    DigestDiffers,
    LearnerTooDeep,
    SnapshotError,
    SnapshotForged,
    WrongRiver,
)
from models.snapshot import (
    _MAC,
    _PREFIX,
    Key,
    Position,
    Snapshot,
    _Unpickler,
    development_key,
    open_sealed,
    peek,
    seal,
    take,
)

ROOT = Path(__file__).parents[2]
KEY = Key("2026-11", b"0123456789abcdef0123456789abcdef")
OTHER = Key("2026-10", b"fedcba9876543210fedcba9876543210")
POSITION = Position(origins={"payments.fraud.log.v1/0": (41, 2)}, next=17)


def snapshot(learner: Any) -> Snapshot:
    return take(learner, version=17, fingerprint="f1", position=POSITION, created_ms=1_700_000_000_000)


def trained(learner: Any, samples: int = 300) -> Any:
    rng = random.Random(5)
    for _ in range(samples):
        x = {name: rng.gauss(0, 1) for name in "abcd"}
        if isinstance(learner, anomaly.HalfSpaceTrees):
            learner.learn_one(x)
        else:
            learner.learn_one(x, sum(x.values()) > 0)
    return learner


def small() -> Any:
    return trained(preprocessing.StandardScaler() | linear_model.LogisticRegression(), 20)


LEARNERS: dict[str, Callable[[], Any]] = {
    "scaler | logistic": small,
    "tree": lambda: trained(tree.HoeffdingTreeClassifier(grace_period=50)),
    "forest": lambda: trained(forest.ARFClassifier(n_models=2, seed=1)),
    "regression forest": lambda: trained(forest.ARFRegressor(n_models=2, seed=1)),
    "mondrian": lambda: trained(forest.AMFClassifier(n_estimators=2, seed=1)),
    "bagging": lambda: trained(ensemble.LeveragingBaggingClassifier(linear_model.Perceptron(), seed=1)),
    "half-space": lambda: trained(anomaly.HalfSpaceTrees(n_trees=2, height=3, window_size=50, seed=1)),
    "neighbours": lambda: trained(
        neighbors.KNNClassifier(engine=neighbors.SWINN(graph_k=5, maxlen=60, warm_up=30, seed=1)), 100
    ),
    "bag of words": lambda: feature_extraction.BagOfWords(ngram_range=(1, 2)),
    "softmax": lambda: trained(linear_model.SoftmaxRegression(), 50),
    "output codes": lambda: trained(
        multiclass.OutputCodeClassifier(linear_model.LogisticRegression(), code_size=4, seed=1), 50
    ),
}


# -- there and back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
def test_what_was_sealed_is_opened_as_it_was(name: str) -> None:
    learner = LEARNERS[name]()
    taken = snapshot(learner)

    opened = open_sealed(seal(taken, KEY), [OTHER, KEY], check=True)

    assert opened == taken
    assert canonical_bytes(opened.learner) == canonical_bytes(learner)


def test_an_opened_learner_goes_on_as_the_first_one_does() -> None:
    learner = trained(forest.ARFClassifier(n_models=2, seed=1))
    opened = open_sealed(seal(snapshot(learner), KEY), [KEY]).learner

    assert canonical_bytes(trained(opened)) == canonical_bytes(trained(learner))


class Early(enum.Enum):
    """Is pickled as every enumeration is in Python 3.11.0 to 3.11.3."""

    ONE = "one"

    def __reduce_ex__(self, proto: Any) -> Any:
        return getattr, (type(self), self.name)


class Holding:
    def __init__(self) -> None:
        self.kind = Early.ONE


def test_an_enumeration_travels_by_its_value_whatever_python_would_write() -> None:
    sealed = seal(snapshot(Holding()), KEY)
    assert b"getattr" not in sealed
    assert open_sealed(sealed, [KEY], [__name__]).learner.kind is Early.ONE


def test_a_header_is_read_without_the_body() -> None:
    taken = snapshot(small())
    data = seal(taken, KEY)

    header = peek(data[:1024], [KEY])

    assert len(data) > 1024
    assert (header.version, header.fingerprint, header.digest) == (17, "f1", taken.digest)
    assert header.position == POSITION


def test_states_of_unseeded_generators_do_not_travel() -> None:
    learner = trained(tree.HoeffdingTreeClassifier())

    assert len(seal(snapshot(learner), KEY)) < len(pickle.dumps(learner)) / 4


def test_states_of_seeded_generators_do() -> None:
    for generator in (random.Random(3), np.random.RandomState(3), np.random.default_rng(3)):
        generator.random()
        opened = open_sealed(seal(snapshot({"rng": generator}), KEY), [KEY], check=True).learner
        assert opened["rng"].random() == generator.random()


def test_two_snapshots_of_one_learner_name_one_digest() -> None:
    assert snapshot(small()).digest == snapshot(small()).digest


# -- refused before it is read -------------------------------------------------------------------------------

TAMPER = """
import sys
from models.errors import SnapshotForged
from models.snapshot import open_sealed
from tests.models.test_snapshot import KEY
found = []
sys.addaudithook(lambda event, args: found.append(args) if event == "pickle.find_class" else None)
data = sys.stdin.buffer.read()
refused = 0
for index in range(len(data)):
    for change in (1, 128):
        changed = data[:index] + bytes([data[index] ^ change]) + data[index + 1:]
        try:
            open_sealed(changed, [KEY])
        except SnapshotForged:
            refused += 1
for end in range(len(data)):
    try:
        open_sealed(data[:end], [KEY])
    except SnapshotForged:
        refused += 1
touched = len(found)
open_sealed(data, [KEY])
print(refused, touched, len(found) > 0)
"""


def test_a_change_of_any_byte_is_refused_before_pickle_is_touched() -> None:
    data = seal(snapshot(linear_model.LogisticRegression()), KEY)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    run = subprocess.run(
        [sys.executable, "-c", TAMPER], input=data, env=environment, capture_output=True, check=True
    )

    assert run.stdout.split() == [str(3 * len(data)).encode(), b"0", b"True"]


DRAWN = """
import random
import sys
import msgspec
from models import snapshot as module
from models.errors import SnapshotForged
from tests.models.test_snapshot import KEY, OTHER
found, parsed = [], []
sys.addaudithook(lambda event, args: found.append(args) if event == "pickle.find_class" else None)
decode = msgspec.json.decode
class Json:
    encode = staticmethod(msgspec.json.encode)
    @staticmethod
    def decode(*words, **more):
        parsed.append(words)
        return decode(*words, **more)
module.msgspec = type("msgspec", (), {"json": Json})
size = int(sys.argv[1])
data = sys.stdin.buffer.read()
one, two = data[:size], data[size:]
draw = random.Random(11)
refused = opened = 0
while refused + opened < 10_000:
    changed = bytearray(draw.choice((one, two)))
    a, b = sorted(draw.sample(range(len(changed) + 1), 2))
    kind = draw.randrange(6)
    if kind == 0:
        changed[a:b] = draw.randbytes(b - a)
    elif kind == 1:
        del changed[a:b]
    elif kind == 2:
        changed[a:a] = changed[a:b]
    elif kind == 3:
        changed[a:b] = changed[a:b][::-1]
    elif kind == 4:  # the head of one and the rest of another, both sealed by the same key
        changed = bytearray(one[:a] + two[a:]) if draw.random() < 0.5 else bytearray(two[:a] + one[a:])
    else:
        for _ in range(draw.randrange(1, 9)):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    if bytes(changed) in (one, two):
        continue
    before = len(parsed)
    try:
        module.open_sealed(bytes(changed), [OTHER, KEY])
        opened += 1
    except SnapshotForged:
        refused += 1
    # a header that is whole may be read: it is sealed by itself; one that was changed never is
    head = next((whole for whole in (one, two) if bytes(changed).startswith(whole[:HEAD(whole)])), None)
    assert head is not None or len(parsed) == before, bytes(changed)
touched = len(found)
module.open_sealed(one, [KEY])
print(refused, touched, len(found) > 0, len(parsed) > 0)
""".replace("HEAD(whole)", "sum(module._PREFIX.unpack_from(whole)[1:3]) + module._PREFIX.size + module._MAC")


def test_ten_thousand_drawn_changes_are_refused_before_anything_is_parsed() -> None:
    one = seal(snapshot(linear_model.LogisticRegression()), KEY)
    two = seal(snapshot(small()), KEY)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    run = subprocess.run(
        [sys.executable, "-c", DRAWN, str(len(one))],
        input=one + two,
        env=environment,
        capture_output=True,
    )

    assert run.returncode == 0, run.stderr.decode()
    assert run.stdout.split() == [b"10000", b"0", b"True", b"True"]


@pytest.mark.parametrize("data", [b"", b"x", b"HDRACE\x00\x01", pickle.dumps({}), b"\x00" * 500], ids=repr)
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    for opening in (open_sealed, peek):
        with pytest.raises(SnapshotForged):
            opening(data, [KEY])


def test_a_snapshot_of_an_unknown_key_is_refused() -> None:
    data = seal(snapshot(small()), OTHER)

    with pytest.raises(SnapshotForged, match="2026-10"):
        open_sealed(data, [KEY])


def test_a_snapshot_of_a_known_name_but_another_secret_is_refused() -> None:
    data = seal(snapshot(small()), Key(KEY.id, OTHER.secret))

    with pytest.raises(SnapshotForged, match="did not seal it"):
        peek(data, [KEY])


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(SnapshotForged):
        open_sealed(seal(snapshot(small()), KEY) + b"x", [KEY])


def test_a_short_secret_is_no_key() -> None:
    with pytest.raises(SnapshotError, match="7 bytes"):
        Key("k", b"letmein")


def test_a_secret_is_never_shown() -> None:
    assert "0123456789abcdef" not in repr(KEY)


def test_the_development_key_differs_by_project() -> None:
    assert development_key("payments") == development_key("payments") != development_key("rides")


# -- refused by what it holds --------------------------------------------------------------------------------


class Own:
    """A class of the project's own file."""


def own(x: dict[str, Any]) -> dict[str, Any]:
    return x


class Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


def test_classes_of_the_project_are_opened_only_when_it_names_their_module() -> None:
    data = seal(snapshot([Own(), compose.FuncTransformer(own)]), KEY)

    with pytest.raises(ClassRefused, match="Own"):
        open_sealed(data, [KEY])

    opened = open_sealed(data, [KEY], allow=[__name__])
    assert isinstance(opened.learner[0], Own)


def test_a_call_of_anything_else_is_refused_by_name() -> None:
    data = seal(snapshot(Harmful()), KEY)

    with pytest.raises(ClassRefused, match="system"):
        open_sealed(data, [KEY], allow=[__name__])


def names(module: str, name: str) -> bytes:
    parts = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    return b"\x80\x04" + parts + b"\x93."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr.__call__"),
        ("river.base.base", "gc.collect"),
        ("river.base.base", "logging"),
        ("river.base.base", "sys.exit"),
        ("river.datasets.base", "FileDataset"),
        ("river.stream.iter_csv", "iter_csv"),
        ("river.api", "stream.iter_csv"),
        ("riverbed", "x"),
        ("functools", "reduce"),
        ("numpy", "load"),
        (__name__, "os.system"),
        (__name__, "Path"),
    ],
)
def test_no_way_around_leads_out_of_the_list(module: str, name: str) -> None:
    with pytest.raises(ClassRefused):
        _Unpickler(io.BytesIO(names(module, name)), frozenset({__name__})).load()


OUTSIDE = """
import io
import sys
from models.errors import ClassRefused
from models.snapshot import _Unpickler
from tests.models.test_snapshot import names
seen = []
sys.addaudithook(lambda event, args: seen.append((event, args)) if event in ("import", "pickle.find_class") else None)
modules = sorted(sys.stdlib_module_names - {"builtins"})
modules += ["headrace.cli", "streams.producer", "serving.app", "features.redis", "models.snapshot", "redis", "faust"]
refused = 0
for module in modules:
    for name in ("system", "Popen", "loads", "x.y"):
        try:
            _Unpickler(io.BytesIO(names(module, name)), frozenset()).load()
        except ClassRefused:
            refused += 1
print(refused == 4 * len(modules), refused > 1000, seen)
"""


def test_what_is_not_on_the_list_is_neither_imported_nor_looked_up() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    run = subprocess.run([sys.executable, "-c", OUTSIDE], env=environment, capture_output=True)

    assert run.returncode == 0, run.stderr.decode()
    assert run.stdout.decode().strip() == "True True []"


@pytest.mark.parametrize(
    ("owner", "name"), [({}, "__class__"), (random.Random, "__init__"), (own, "__globals__"), ([], "missing")]
)
def test_a_bound_method_is_all_that_getattr_gives(owner: Any, name: str) -> None:
    getattr_ = _Unpickler(io.BytesIO(names("builtins", "getattr")), frozenset()).load()

    with pytest.raises(ClassRefused):
        getattr_(owner, name)


def test_a_class_that_is_gone_is_named() -> None:
    with pytest.raises(ClassRefused, match=r"river\.tree\.Gone"):
        _Unpickler(io.BytesIO(names("river.tree", "Gone")), frozenset()).load()


def test_a_snapshot_of_another_river_says_what_to_install() -> None:
    data = seal(dataclasses.replace(snapshot(small()), river="0.1.0"), KEY)

    with pytest.raises(WrongRiver, match=r"0\.1\.0") as refusal:
        open_sealed(data, [KEY])

    assert "river==0.1.0" in refusal.value.fix
    assert "rebuild" in refusal.value.fix


def test_a_learner_with_another_digest_is_found_when_asked() -> None:
    learner = small()
    taken = snapshot(learner)
    sealed = seal(taken, KEY)
    false = hashlib.sha256(b"").hexdigest()
    forged = seal_unchecked(dataclasses.replace(taken, digest=false))

    assert open_sealed(forged, [KEY]).digest == false
    with pytest.raises(DigestDiffers, match="not the one that was sealed"):
        open_sealed(forged, [KEY], check=True)
    assert open_sealed(sealed, [KEY], check=True).digest == taken.digest


def seal_unchecked(false: Snapshot) -> bytes:
    """An envelope by a writer with the right key and a wrong digest."""
    honest = seal(snapshot(false.learner), KEY)
    data = honest.replace(snapshot(false.learner).digest.encode(), false.digest.encode())
    _, name, header, _, _ = _PREFIX.unpack_from(data)
    end = _PREFIX.size + name + header
    return data[:end] + hmac.digest(KEY.secret, data[:end], "sha256") + data[end + _MAC :]


# -- refused to be sealed ------------------------------------------------------------------------------------


def test_a_learner_trained_after_it_was_taken_is_not_sealed() -> None:
    learner = small()
    taken = snapshot(learner)
    learner.learn_one({"a": 1.0}, True)

    with pytest.raises(DigestDiffers, match="changed after"):
        seal(taken, KEY)


def test_a_learner_nested_too_deep_is_named() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(LearnerTooDeep, match="list") as refusal:
        seal(snapshot(deep), KEY)

    assert "max_depth" in refusal.value.fix
