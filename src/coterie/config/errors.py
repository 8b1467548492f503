"""Errors a user can act on. Each message is one line: what is wrong, where, and what to do."""


class CoterieError(Exception):
    """Base of every error meant for a user; the command line prints one line and exits with `exit_code`."""

    exit_code = 1


class ConfigError(CoterieError):
    """A setting is unknown, missing, contradictory or out of range."""

    exit_code = 2


class DataError(CoterieError):
    """A source, document, row or token shard cannot be used as it is."""


class CheckpointError(CoterieError):
    """A checkpoint directory is missing, incomplete, damaged, or has other shapes than asked for."""


class TrainingError(CoterieError):
    """Training cannot continue: a loss that is not finite, a full disk, an interrupted run."""


class StoppedError(CoterieError):
    """A part of a command was stopped by a signal; `exit_code` is 128 and the signal's number."""

    exit_code = 130

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
