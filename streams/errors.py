"""What can go wrong between Headrace and Kafka.

StreamsError
|- Recoverable             try again, nothing is wrong with us or with the log
|  |- BrokerUnreachable    nobody answers at the bootstrap address
|  |  `- ClientRefused     the broker does not trust this client, or this client not the broker
|  `- DeliveryFailed       records were not acknowledged in time; sending them again is safe
`- Fatal                   stop: going on would lose or repeat events, or fail the same way for ever
   |- SecurityUnusable     the settings of TLS and SASL do not fit together, or a file of theirs cannot be used
   |- TopicUnusable        a topic is missing or has another number of partitions
   |- GroupRefused         the broker does not let this worker into the group
   |- LogTruncated         the log no longer holds the offset to resume from
   |- LogAhead             the offset to resume from lies beyond the end of the log
   |- TopicRecreated       the topic that is read was deleted and made anew
   |- PredictionGone       the log no longer holds a prediction whose sample is due
   |- LogUnreadable        the broker or the client refuses to read on
   |- SpoolDamaged         a file of a spooled log is not what was written
   |- PollLost             records were taken from the broker and did not arrive
   |- Stalled              the log grows and nothing is delivered any more
   `- DeliveryRefused      the broker or the producer will never take these records
"""

from __future__ import annotations

from pathlib import Path


class StreamsError(Exception):
    """Root of all errors of this package; the message names the offender and the next action."""


class Recoverable(StreamsError):
    """The same call may succeed later."""


class Fatal(StreamsError):
    """The same call would fail again, or do harm."""


class BrokerUnreachable(Recoverable):
    """No broker answered."""

    def __init__(self, bootstrap: str, what: str, why: str) -> None:
        super().__init__(
            f"Cannot {what}: Kafka does not answer at {bootstrap} ({why}). "
            "Start the broker, or correct the bootstrap address."
        )


class SecurityUnusable(Fatal):
    """Nobody can be reached with these settings of TLS and SASL."""


class ClientRefused(BrokerUnreachable):
    """The broker and this client do not trust each other."""

    def __init__(self, bootstrap: str, what: str, why: str) -> None:
        StreamsError.__init__(
            self,
            f"Cannot {what}: Kafka and this client do not trust each other at {bootstrap} ({why}). "
            "Correct the security protocol, the user name and the password, or the certificates.",
        )


class DeliveryFailed(Recoverable):
    """Some records of a batch were not acknowledged; receivers drop what arrives twice, so send it again."""


class DeliveryRefused(Fatal):
    """Some records of a batch will never be taken, or the producer has failed for good."""


class TopicUnusable(Fatal):
    """A topic is not what the project was built for."""


class GroupRefused(Fatal):
    """The broker does not let this worker into the consumer group."""

    def __init__(self, group: str, why: str) -> None:
        super().__init__(
            f"Cannot read as a member of the group {group}: {why}. Check the permissions of this client, "
            "that no other worker has the same instance name, and that the broker allows the session timeout."
        )


class LogTruncated(Fatal):
    """The log no longer holds the next offset, so events would be skipped."""

    def __init__(self, topic: str, partition: int, offset: int, earliest: int) -> None:
        super().__init__(
            f"Cannot resume {topic}/{partition} at offset {offset}: the log now starts at {earliest}, so "
            f"{earliest - offset} offsets are gone (retention, or the topic was made anew). Nothing was "
            "skipped. Rebuild the state from a base that the log still reaches, and raise the retention."
        )


class LogAhead(Fatal):
    """The next offset lies beyond the end of the log, so the log is not the one that was folded."""

    def __init__(self, topic: str, partition: int, offset: int, highwater: int) -> None:
        super().__init__(
            f"Cannot resume {topic}/{partition} at offset {offset}: the log ends at {highwater}. It was cut "
            "or made anew, and its offsets now mean other events. Rebuild the state from this log, or name "
            "the broker that has the right one."
        )


class TopicRecreated(Fatal):
    """The topic is another one than was claimed, although it has the name."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"Cannot read on in {topic}: it was deleted and created again, and its offsets mean other records now. "
            "Name a new topic version, or remove the old features with a new project name."
        )


class PredictionGone(Fatal):
    """The log no longer holds a prediction whose vector waits in it alone."""

    def __init__(self, topic: str, partition: int, offset: int, earliest: int) -> None:
        super().__init__(
            f"Cannot make the sample of the prediction at offset {offset} of {topic}/{partition}: the log now "
            f"starts at {earliest} (retention is shorter than the horizon and the lateness, or labels stood "
            "still for long). Nothing was skipped. Raise the retention of the topic; to go on without what is "
            "gone, delete the join's keys, as docs/how-to/long-horizons.md says: it then joins again what the "
            "log still holds."
        )


class LogUnreadable(Fatal):
    """The broker or the client refuses to read on: no permission, a corrupt batch, a missing codec."""

    def __init__(self, topic: str, partition: int, offset: int, why: str) -> None:
        super().__init__(
            f"Cannot read {topic}/{partition} at offset {offset}: {why}. Nothing was skipped. Check the "
            "permissions of this client and the health of the topic."
        )


class SpoolDamaged(Fatal):
    """A file of a spooled log is not what was written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"Cannot read {path}: {why}. Nothing was skipped. Spool the log again.")


class PollLost(Fatal):
    """Records left the broker's buffer and never reached the processor."""

    def __init__(self, topic: str, partition: int, expected: int, found: int) -> None:
        super().__init__(
            f"Polls of {topic}/{partition} do not join up: the next one starts at offset {found}, not "
            f"{expected}. Nothing was skipped. Restart the worker: it resumes from the stored position."
        )


class Stalled(Fatal):
    """The log grows while its reader stands still."""

    def __init__(self, topic: str, partition: int, offset: int, highwater: int, seconds: float) -> None:
        super().__init__(
            f"Reading {topic}/{partition} has stood at offset {offset} for {seconds:.0f} s while the log "
            f"grew to {highwater}. Restart the worker: it resumes from the stored position."
        )
