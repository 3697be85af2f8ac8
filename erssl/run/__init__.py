"""What a run leaves behind: its folder, results, report, plots, checkpoint files, and launching."""
