"""What can go wrong with a model.

ModelError               the root in this room, a HeadraceError: what, where, why, fix
├── LearnerError         a DefinitionError too: the learner of the project cannot be used, nothing runs
│   ├── NotCanonical     it holds something that has neither a name nor a value
│   ├── UnseededLearner  two copies trained on the same samples differ
│   ├── LearnerRefused   it fails on the inputs or labels that the project declares
│   └── TaskRefused      it cannot do what the label asks for
├── NonFiniteScore       one request fails, the learner stays
└── SnapshotError        one snapshot cannot be written or opened: take another one, or rebuild it
    ├── SnapshotForged   not sealed by a key of ours, cut short, or changed
    ├── ClassRefused     it names a class that is not allowed
    ├── WrongRiver       it was written with another version of River
    ├── DigestDiffers    its learner is not the one that its digest names
    └── LearnerTooDeep   its learner is nested too deep to be pickled
"""

from __future__ import annotations

from features.errors import DefinitionError, HeadraceError


class ModelError(HeadraceError):
    """A failure of a model, told in four parts."""


class LearnerError(ModelError, DefinitionError):
    """The learner of a project cannot be used as it is."""


class NotCanonical(LearnerError):
    """The learner holds something whose value cannot be written down, so versions could not be compared."""


class UnseededLearner(LearnerError):
    """Two copies of the learner, trained on the same samples, differ."""


class LearnerRefused(LearnerError):
    """The learner fails on samples of the declared inputs and label."""


class TaskRefused(LearnerError):
    """The learner cannot do the task that the label asks for."""


class NonFiniteScore(ModelError):
    """The learner answered with something that is not a finite number."""


class SnapshotError(ModelError):
    """A snapshot cannot be written or opened."""


class SnapshotForged(SnapshotError):
    """The envelope was not sealed with a known key, was cut short, or was changed since."""


class ClassRefused(SnapshotError):
    """The snapshot names a class or function outside the allowlist."""


class WrongRiver(SnapshotError):
    """The snapshot was written with another version of River."""


class DigestDiffers(SnapshotError):
    """The learner in the snapshot does not have the digest that the snapshot names."""


class LearnerTooDeep(SnapshotError):
    """The learner is nested too deep to be pickled."""
