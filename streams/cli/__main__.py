"""`python -m turnstream.streams.cli`, for where the script is not on the path."""

from turnstream.streams.cli import main

if __name__ == "__main__":
    main()
