"""MPDF on RLlib: teams of frozen language models that learn when to persist, refine or concede."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mpdf-rllib")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+checkout"
