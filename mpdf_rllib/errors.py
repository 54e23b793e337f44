"""The error model: four kinds of failure, told apart by who can mend them.

- `ConfigError`: the user's config, command line or files. Names the key, file or row, its value and the remedy.
- `DataError`: a question, a recording or a checkpoint that cannot be used as it is. Names the file or the question.
- `TrainingError`: learning diverged. Names the iteration and the settings to change; earlier checkpoints are kept.
- `EngineError`: what the work is done by failed: a language-model engine although it was retried, env runners, learners
  or trials. What was recorded before is kept, and the last checkpoints.

Commands print these as one message without a traceback and exit with status 2. Everything else is a bug of ours and
keeps its traceback.
"""


class MPDFError(Exception):
    """Base of the errors that a user is meant to read."""


class ConfigError(MPDFError):
    """A wrong key, value, model or path in the config or on the command line."""


class DataError(MPDFError):
    """A question, recording or checkpoint that cannot be used."""


class PromptError(DataError):
    """A prompt that its model refuses, most often since it is too long for the model's context."""


class TrainingError(MPDFError):
    """The loss of a policy became NaN or infinite."""


class EngineError(MPDFError):
    """A language-model engine, env runner, learner or trial failed."""
