"""What a queue of commits means for `keep`, whatever their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from turnstream.connectors.postgres.checkpoints.commit_queue import Item, advance
from turnstream.connectors.postgres.checkpoints.statements import Rows, WriteRow, _once
from turnstream.schemas.fold.fold import add_keep, covers, is_kept
from turnstream.schemas.records.events import Keep

segments = st.sampled_from(["a", "b", "ab"])
paths = st.lists(segments, min_size=1, max_size=3).map("|".join)
named = st.tuples(paths, st.booleans()).map(lambda it: it[0] + ("|" if it[1] else ""))


@st.composite
def commits(draw: st.DrawFn) -> list[Item]:
    """Commits in the order of their positions, as one attempt makes them."""
    made = []
    for n in range(1, draw(st.integers(1, 12)) + 1):
        root = draw(st.integers(0, 5)) == 0
        made.append(Item(ns="", rows=Rows(), n=n, keep="" if root else draw(named), root=root))
    return made


@given(commits())
def test_no_entry_stands_under_a_later_one(items: list[Item]) -> None:
    keep, _ = advance((), 0, items)
    for place, one in enumerate(keep):
        assert not any(covers(one.path, earlier.path) for earlier in keep[:place])


@given(commits())
def test_everything_committed_last_under_a_path_is_kept(items: list[Item]) -> None:
    keep, keep_n = advance((), 0, items)
    for item in items:
        if item.n <= keep_n or not item.keep:
            continue
        said = f"{item.keep}x" if item.keep.endswith("|") else item.keep
        assert is_kept(said, item.n, keep)
        assert is_kept(f"{item.keep.rstrip('|')}|deeper", item.n, keep)


@given(commits())
def test_a_root_checkpoint_takes_every_entry(items: list[Item]) -> None:
    last = items[-1].n + 1
    root = Item(ns="", rows=Rows(), n=last, root=True)
    assert advance((), 0, [*items, root]) == ((), last)


@given(commits(), st.integers(0, 12))
def test_it_does_not_matter_how_the_queue_is_cut(items: list[Item], cut: int) -> None:
    whole = advance((), 0, items)
    keep, keep_n = advance((), 0, items[:cut])
    assert advance(keep, keep_n, items[cut:]) == whole


@given(paths, st.integers(1, 5))
def test_a_nested_graph_does_not_keep_its_tasks_own_text(path: str, n: int) -> None:
    keep = add_keep((), Keep(f"{path}|", n))
    assert not is_kept(path, n, keep)
    assert is_kept(f"{path}|inner", n, keep)
    assert not is_kept(f"{path}|inner", n + 1, keep)
    # the task finishes: its own entry takes the nested one's place
    assert add_keep(keep, Keep(path, n + 1)) == (Keep(path, n + 1),)


def test_a_row_that_comes_twice_counts_once() -> None:
    def row(idx: int, blob: bytes) -> WriteRow:
        return WriteRow("", "c", "t", "", idx, "ch", "msgpack", blob)

    rows = [row(0, b"first"), row(0, b"second"), row(-3, b"first"), row(-3, b"second")]
    assert [kept.blob for kept in _once(rows)] == [b"first", b"second"]
