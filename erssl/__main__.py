"""``python -m erssl``: the command line."""

import sys

from erssl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
