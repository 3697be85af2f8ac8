"""A command in a process of its own, which never finds its modules in the working folder.

Python puts the working folder in front of the path for ``python -m``, and a script's own folder for
a script: a file ``random.py`` among a user's own would be taken for Python's.
"""

import sys

if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    import importlib.util
    from pathlib import Path

    if importlib.util.find_spec("erssl") is None:  # a checkout that is not installed
        sys.path.append(str(Path(__file__).resolve().parents[2]))
    from erssl.cli.main import main

    sys.exit(main())
