"""`python -m gapscope`."""

from gapscope.cli import main

if __name__ == "__main__":
    main()
