"""``python -m unlabel`` is the command line."""

from unlabel.cli import main

if __name__ == "__main__":
    main()
