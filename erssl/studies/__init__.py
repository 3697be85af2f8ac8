"""Studies: grids of pretrainings that answer a question, their store of runs and their pages."""

from erssl.studies.plan import Cell, Grid, Scale, Study, available_studies, read_study
from erssl.studies.store import RunStore

__all__ = ["Cell", "Grid", "RunStore", "Scale", "Study", "available_studies", "read_study"]
