"""Hand-written fetch requests and answers are aiokafka's own, byte for byte."""

from __future__ import annotations

from io import BytesIO

from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v11, FetchResponse_v11
from hypothesis import given
from hypothesis import strategies as st

from turnstream.connectors.kafka.wire.fetch_request import Fetch, Fetched, FetchSession

VERSIONS = {1: (4, 17)}
int16 = st.integers(-1, 2**15 - 1)
int32 = st.integers(0, 2**31 - 1)
int64 = st.integers(-1, 2**63 - 1)
topics = st.text(st.sampled_from("abcxyz0189._-"), min_size=1, max_size=40)
targets = st.lists(st.tuples(int32, int64, int32), max_size=30)
some_targets = st.lists(st.tuples(int32, int64, int32), min_size=1, max_size=30)
aborted = st.none() | st.lists(st.tuples(int64, int64), max_size=3)
answers = st.lists(
    st.tuples(
        int32, int16, int64, int64, int64, aborted, int32, st.none() | st.binary(max_size=99)
    ),
    max_size=30,
)


@given(topics, some_targets, int32, int32, int32)
def test_requests_are_aiokafkas(topic, asked, wait, least, most) -> None:
    ours = Fetch(topic, asked, max_wait_ms=wait, min_bytes=least, max_bytes=most)
    theirs = FetchRequest(wait, least, most, 0, [(topic, asked)]).build(FetchRequest_v11)
    assert ours.prepare(VERSIONS).encode() == theirs.encode()
    assert ours.prepare(VERSIONS).API_VERSION == theirs.API_VERSION


@given(topics, targets, int32, int32)
def test_requests_of_a_session_are_aiokafkas(topic, asked, session, epoch) -> None:
    ours = Fetch(topic, asked, max_wait_ms=1, min_bytes=2, max_bytes=3, session=(session, epoch))
    named = [(topic, [(n, -1, offset, -1, size) for n, offset, size in asked])] if asked else []
    theirs = FetchRequest_v11(-1, 1, 2, 3, 0, session, epoch, named, [], "")
    assert ours.prepare(VERSIONS).encode() == theirs.encode()


class Broker:
    """Keeps a session as KIP-227 says, and says what it would fetch."""

    def __init__(self) -> None:
        self.session, self.epoch, self.kept = 0, 0, {}

    def take(self, request: Fetch) -> tuple[int, dict[int, int]]:
        body = FetchRequest_v11.decode(BytesIO(request.prepare(VERSIONS).encode()))
        named = {n: offset for _, parts in body.topics for n, _, offset, _, _ in parts}
        if body.session_epoch == 0:
            self.session, self.epoch, self.kept = self.session + 1, 0, dict(named)
        elif (body.session_id, body.session_epoch) != (self.session, self.epoch):
            return 70 if body.session_id != self.session else 71, {}
        self.kept |= named
        self.epoch += 1
        return 0, named


BOUNDS = {"max_wait_ms": 1, "min_bytes": 1, "max_bytes": 9, "partition_bytes_max": 5}
positions = st.dictionaries(st.integers(0, 3), st.integers(0, 2), min_size=1)


@given(st.lists(st.tuples(positions, st.sampled_from(["", "lost", "full", "forgotten"]))))
def test_a_broker_knows_in_a_session_what_it_would_know_without(rounds) -> None:
    session, broker = FetchSession("t", **BOUNDS), Broker()
    for wanted, fate in rounds:
        error, _ = broker.take(session.request(wanted))
        if error:
            session.answered(Fetched(error, 0, []))
            error, _ = broker.take(session.request(wanted))
        assert (error, broker.kept) == (0, wanted)
        match fate:
            case "lost":  # the answer did not come
                session.restart()
            case "full":  # others have all the broker's sessions
                session.answered(Fetched(0, 0, []))
            case _:
                session.answered(Fetched(0, broker.session, []))
        if fate == "forgotten":
            broker.session += 1


def test_only_changes_are_named() -> None:
    session, broker = FetchSession("t", **BOUNDS), Broker()
    named = []
    for wanted in ({0: 1, 1: 1}, {0: 1, 1: 2}, {0: 1, 1: 2}, {0: 3, 1: 2}, {1: 2}):
        named.append(broker.take(session.request(wanted))[1])
        session.answered(Fetched(0, broker.session, []))
    assert named == [{0: 1, 1: 1}, {1: 2}, {}, {0: 3}, {1: 2}]


@given(int16, int32, st.lists(st.tuples(topics, answers), max_size=3))
def test_answers_are_read_as_aiokafka_writes_them(error, session, said) -> None:
    body = FetchResponse_v11(0, error, session, said).encode()
    header = b"\0\0\0\7"
    data = BytesIO(header + body)
    data.read(len(header))
    read = Fetched.decode(data)
    assert (read.error, read.session) == (error, session)
    assert read.partitions == [
        (partition, code, raw or b"")
        for _, partitions in said
        for partition, code, _, _, _, _, _, raw in partitions
    ]
