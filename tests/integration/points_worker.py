"""A worker like any other that can be struck at the places of `tests/chaos/points.py`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.chaos import points

PROGRAM = (__file__,)


def arm(folder: Path, thread: str, point: str, action: str) -> None:
    """Let the next worker that is there with this thread be struck."""
    for each in ("armed", "hit"):
        (folder / each).mkdir(exist_ok=True)
    (folder / "armed" / f"{thread}@{point}").write_text(f"{action} 1")


def main() -> None:
    """Work until SIGTERM, or until it is struck."""
    from turnstream.streams.cli import main as run

    name = sys.argv[1]
    points.install(Path(os.environ["TURNSTREAM_TEST_POINTS"]), name)
    sys.argv[1:] = ["worker", "--no-create", "--name", name]
    run()


if __name__ == "__main__":
    main()
