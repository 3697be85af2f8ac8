"""Studies: grids of pretrainings that answer a question, their store of runs and their pages."""

from erssl.studies.grid import Cell, Grid
from erssl.studies.plan import Scale, Study, read_study
from erssl.studies.store import RunStore
from erssl.studies.study_files import available_studies

__all__ = ["Cell", "Grid", "RunStore", "Scale", "Study", "available_studies", "read_study"]
