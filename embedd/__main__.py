"""``python -m embedd`` is the command ``embedd``."""

from embedd.cli import main

if __name__ == "__main__":
    main()
