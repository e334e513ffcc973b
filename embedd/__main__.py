"""The command ``embedd``, as ``python -m embedd``."""

from embedd.cli import main

if __name__ == "__main__":
    main()
