"""What tests of figures share."""

import matplotlib.figure
import pytest


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures, save = [], matplotlib.figure.Figure.savefig

    def keep(self, path, **keywords):
        figures.append(self)
        save(self, path, **keywords)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return figures
