"""YAML that refuses a key given twice, of which the loader by itself takes the last without a word."""

from typing import Any

import yaml


def load(text: str) -> Any:
    """What a text holds.

    Raises:
        yaml.YAMLError: It is not YAML, or gives a key twice.
    """
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)
