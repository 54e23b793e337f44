"""The part of the config that says what runs the model: one section a kind, each of which makes its engine."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from mpdf_rllib.engine.types import Engine
from mpdf_rllib.section import Section

_GPU_MEMORY = 0.9
"""Of a GPU, the share that vLLM takes."""
_OTHER_MODEL = (
    "hf_overrides",
    "load_format",
    "logprobs_mode",
    "override_generation_config",
    "quantization",
    "tokenizer",
)
"""vLLM's arguments that make another model, or other log-probabilities, of the same files."""
_ENVIRONMENT_VARIABLE = r"^[A-Za-z_]\w*$"


class _EngineSection(Section):
    timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """The engine has hung when it answered nothing for so many seconds, the loading of the model included."""

    @property
    def serving_cpus(self) -> int:
        """CPUs of Ray's that a model takes beside those of the processes that ask."""
        return 0

    def resolved_model(self, model: str) -> str:
        """The model's name in any working directory."""
        path = Path(model).expanduser()
        return str(path.absolute()) if path.exists() else model

    def renders_chat(self, model: str) -> bool:
        """Whether the model takes chat turns."""
        from mpdf_rllib.engine.models import has_chat_template

        return has_chat_template(model)


class _VLLMSection(_EngineSection):
    args: dict[str, Any] = {}
    """vLLM's own engine arguments, by vLLM's names."""

    def fingerprint(self, model: str) -> str:
        """What identifies the model's generations in a recording: its files, and the arguments that make it another."""
        from mpdf_rllib.engine.models import model_fingerprint

        changed = {name: value for name, value in self.args.items() if name in _OTHER_MODEL}
        if not changed:
            return model_fingerprint(model)
        return f"{model_fingerprint(model)}-{hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()}"


class VLLMConfig(_VLLMSection):
    """vLLM in this process."""

    kind: Literal["vllm"] = "vllm"

    def make(self, model: str, models: int = 1) -> Engine:
        """The engine of one of so many models, which share a machine."""
        from mpdf_rllib.engine.vllm_engine import VLLMEngine

        share = {"gpu_memory_utilization": _GPU_MEMORY / models} if models > 1 else {}
        return VLLMEngine(model, share | self.args)


class ReplicasConfig(Section):
    """Bounds within which Ray Serve follows the load; 0 at least frees the accelerators of an idle model."""

    min: Annotated[int, Field(ge=0)] = 1
    """Replicas of a model at least."""
    max: Annotated[int, Field(ge=1)] = 1
    """Replicas of a model at most."""

    @model_validator(mode="after")
    def _are_ordered(self) -> "ReplicasConfig":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


def _as_bounds(replicas: Any) -> Any:
    return {"min": replicas, "max": replicas} if isinstance(replicas, int) else replicas


class ServeConfig(_VLLMSection):
    """One Ray Serve LLM application, started or found, that all processes share."""

    kind: Literal["serve"]
    replicas: Annotated[ReplicasConfig, BeforeValidator(_as_bounds)] = ReplicasConfig()
    """Copies of each model: a number, or bounds for Serve to follow the load."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """GPUs of a replica."""
    accelerator: str | None = None
    """"cpu", or Ray's name of a type of GPU; any GPU by default, the CPU where the cluster has none."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Of Serve's HTTP proxy where this run starts Serve."""
    concurrency: Annotated[int, Field(ge=1)] = 256
    """Requests of each model that one process has in flight at most."""

    @property
    def serving_cpus(self) -> int:
        """One a replica."""
        return max(self.replicas.min, 1)

    def make(self, model: str, models: int = 1) -> Engine:
        """The engine of one of so many models, which share a machine."""
        from mpdf_rllib.engine.serve_engine import ServeEngine

        return ServeEngine(model, self)


class EndpointConfig(_EngineSection):
    """An OpenAI-compatible server."""

    kind: Literal["endpoint"]
    url: str
    """Its base URL, as in http://127.0.0.1:8000/v1; `team.model` is the model's name there."""
    api_key_env: Annotated[str, Field(pattern=_ENVIRONMENT_VARIABLE)] | None = None
    """The environment variable that holds the key, in every process that asks; none is sent by default."""
    concurrency: Annotated[int, Field(ge=1)] = 64
    """Requests of each model that one process has in flight at most."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """A request that is not answered within so many seconds is asked again."""
    retries: Annotated[int, Field(ge=0)] = 8
    """How often a request is asked again; the waits double from 0.5 to 8 s, or are what the server asks for, up to two
    minutes: one that asks for more is not asked again."""

    @field_validator("url")
    @classmethod
    def _is_plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("give the server's base URL, such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("keep keys out of it: name the environment variable that holds one in engine.api_key_env")
        return url

    def fingerprint(self, model: str) -> str:
        """The model's name on the server: its weights are not seen."""
        return f"endpoint:{model}"

    def resolved_model(self, model: str) -> str:
        """The model's name on the server."""
        return model

    def renders_chat(self, model: str) -> bool:
        """Chat turns are what such servers are for."""
        return True

    def make(self, model: str, models: int = 1) -> Engine:
        """The engine of one of so many models, which share a machine."""
        from mpdf_rllib.engine.endpoint_engine import EndpointEngine

        return EndpointEngine(model, **self.model_dump(exclude={"kind", "timeout_s"}))


class ScriptedArguments(Section):
    """How slow the scripted engine is."""

    delay: Annotated[float, Field(ge=0)] = 0.0
    """Seconds until a request is answered."""
    max_num_seqs: Annotated[int, Field(ge=1)] | None = None
    """Requests that are answered at once; all by default."""


class ScriptedConfig(_EngineSection):
    """A stand-in without a model, for tests and for measuring everything else."""

    kind: Literal["scripted"]
    args: ScriptedArguments = ScriptedArguments()

    def fingerprint(self, model: str) -> str:
        """It has no weights."""
        return "scripted"

    def renders_chat(self, model: str) -> bool:
        """It reads plain text."""
        return False

    def make(self, model: str, models: int = 1) -> Engine:
        """The engine of one of so many models, which share a machine."""
        from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model

        return ScriptedEngine(answer_like_a_small_model, **self.args.model_dump())


KINDS: dict[str, type[Section]] = {
    "vllm": VLLMConfig,
    "serve": ServeConfig,
    "endpoint": EndpointConfig,
    "scripted": ScriptedConfig,
}


def _kind(section: Any) -> Any:
    return section.get("kind", "vllm") if isinstance(section, dict) else getattr(section, "kind", None)


EngineConfig = Annotated[
    Annotated[VLLMConfig, Tag("vllm")]
    | Annotated[ServeConfig, Tag("serve")]
    | Annotated[EndpointConfig, Tag("endpoint")]
    | Annotated[ScriptedConfig, Tag("scripted")],
    Discriminator(_kind),
]
"""Any of them, by their `kind`; vLLM in this process where none is given."""
