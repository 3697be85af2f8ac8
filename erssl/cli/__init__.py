"""The ``erssl`` command, one file a sub-command."""
