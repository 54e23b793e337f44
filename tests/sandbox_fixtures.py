"""What tests of sandboxed programs share."""

import os

import pytest

from mpdf_rllib.errors import ConfigError
from mpdf_rllib.questions.sandbox import check_sandbox


def need_sandbox() -> None:
    """Skips where no sandbox works; CI has to have one."""
    try:
        check_sandbox()
    except ConfigError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
