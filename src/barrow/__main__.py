"""``python -m barrow``."""

import sys

from barrow.cli import main

if __name__ == "__main__":
    sys.exit(main())
