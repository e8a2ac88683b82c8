"""Work that cannot go on, told in one sentence."""


class RunFailed(RuntimeError):
    """A run that stopped although its input was right: commands print its one sentence and exit with 3."""
