"""Jars come from the lock, and only with the content that the lock names."""

import pytest

from turnstream.deploy.local.jars import Jar, fetch_jars, read_lock
from turnstream.schemas.errors import StackError


@pytest.fixture
def jar() -> Jar:
    """The smallest jar of the lock."""
    return next(jar for jar in read_lock() if jar.artifact == "slf4j-simple")


def cut_network(monkeypatch):
    """Send every request to a proxy that is not there."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_lock_names_kafka_with_a_digest_each():
    lock = read_lock()
    assert ("org.apache.kafka", "kafka_2.13", "4.1.1") in {
        (jar.group, jar.artifact, jar.version) for jar in lock
    }
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in lock)
    assert len({(jar.group, jar.artifact) for jar in lock}) == len(lock)


def test_damaged_jar_is_fetched_again(jar, tmp_path):
    (path,) = fetch_jars((jar,), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert not jar.intact(tmp_path / "jars")
    assert fetch_jars((jar,), tmp_path) == [path]
    assert path.read_bytes() == content


def test_cached_jars_need_no_network(jar, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        cut_network(patch)
        with pytest.raises(StackError, match="cannot fetch slf4j-simple"):
            fetch_jars((jar,), tmp_path)
    fetch_jars((jar,), tmp_path)
    cut_network(monkeypatch)
    seen = []
    fetch_jars((jar,), tmp_path, progress=lambda *at: seen.append(at))
    assert seen == [(1, 1)]


def test_other_content_than_the_locks_is_refused_and_removed(jar, tmp_path):
    other = Jar(jar.group, jar.artifact, jar.version, "0" * 64)
    with pytest.raises(StackError, match="SHA-256"):
        fetch_jars((other,), tmp_path)
    assert not other.path(tmp_path / "jars").exists()
