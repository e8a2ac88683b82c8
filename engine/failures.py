"""Errors for work that cannot continue, in one sentence."""


class RunFailed(RuntimeError):
    """A run that stopped although its input was valid: commands print its one sentence and exit with 3."""
