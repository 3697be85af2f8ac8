"""The zoo: published checkpoints by name, and the user's own beside them."""

from erssl.models.zoo.catalogue import ZooRow, add_row, own_zoo, zoo_file, zoo_row, zoo_rows

__all__ = ["ZooRow", "add_row", "own_zoo", "zoo_file", "zoo_row", "zoo_rows"]
