"""Errors that a user can act on: each message says what is wrong, where, and what to do.

The command line prints a `ModelworksError` as one line and exits with status 1; any other exception is a
defect of modelworks and keeps its traceback in Python.
"""


class ModelworksError(Exception):
    """Base of every error that is the input's or the environment's, not the program's."""


class ConfigError(ModelworksError):
    """A configuration is unknown, incomplete or contradictory."""


class GrammarError(ConfigError):
    """A JSON schema, regex or Lark grammar is invalid, unsupported, or satisfied by nothing."""


class ModelFileError(ModelworksError):
    """A model's files are missing, cut short, corrupt or of an unsupported kind."""


class ContextLengthError(ModelworksError):
    """A prompt with its answer does not fit the model's context."""


class TrainingError(ModelworksError):
    """A training run went astray, or its checkpoint cannot be written or gone on from."""


class Stopped(ModelworksError):
    """A signal asked to stop, and what was done is kept."""


class DocumentError(ModelworksError):
    """A document cannot be read; the message is the reason shown in the ingestion report."""


class DataError(ModelworksError):
    """Training data is broken, empty, damaged on disk, or of no format that is known."""


class StoreError(ModelworksError):
    """A collection's store is missing, locked, full, damaged or made by an incompatible model."""


class DownloadError(ModelworksError):
    """Something could not be fetched, or what came is not what was asked for."""
