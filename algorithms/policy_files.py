"""A trained policy as files that need no RLlib, in Hugging Face's layout: config.json and model.safetensors."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork
from mpdf_rllib.errors import DataError

SETTINGS = "config.json"
WEIGHTS = "model.safetensors"


def save_policy(folder: Path, network: MetaPolicyNetwork) -> None:
    """Writes a network, in place of the one that lies there.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(json.dumps(network.settings, indent=1) + "\n", encoding="utf-8")
    weights = save(network.state_dict())
    (folder / WEIGHTS).write_bytes(weights)


def load_policy(folder: Path) -> MetaPolicyNetwork:
    """Reads a network.

    Raises:
        DataError: There is none, or it was damaged.
    """
    try:
        network = MetaPolicyNetwork(**json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise DataError(
            f"{folder} holds no policy that can be read ({error}); give a run whose training is finished, or train "
            "anew (--fresh)"
        ) from error
    return network.eval()
