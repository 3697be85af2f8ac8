"""Transfer to eleven data sets (Kornblith et al. 2019, Ericsson et al. 2021, MVEB §6.4)."""
