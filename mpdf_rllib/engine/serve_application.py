"""The Ray Serve LLM application that the engines of all processes share: started by the first, found by the others."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mpdf_rllib.engine.config import ServeConfig
from mpdf_rllib.engine.models import ResolvedModel, is_hub_id
from mpdf_rllib.engine.vllm_engine import CPU_DEFAULTS, DEFAULTS, ENVIRONMENT, SMALL_MACHINE_CORES, check_names
from mpdf_rllib.errors import ConfigError, EngineError, MPDFError

_NAMESPACE = "mpdf_rllib"
_LOCAL, _EVERYWHERE = "127.0.0.1", "0.0.0.0"
_GOING = ("DEPLOYING", "RUNNING", "UNHEALTHY")  # Serve starts lost replicas again by itself
_QUEUED_REQUESTS = 100_000
_STARTERS = 10
"""How often another actor takes over from one that ended with its process."""


def served_name(name: str, model: ResolvedModel) -> str:
    """The model's name in the application: other weights have another."""
    return f"{Path(name).name}-{model.fingerprint[:8]}"


def application_url(models: dict[str, ResolvedModel], config: ServeConfig) -> str:
    """Finds the application of these models and settings, or starts it; returns its OpenAI-compatible base URL.

    It goes on serving for as long as the Ray instance that it runs in: other runs find it there.

    Args:
        models: By name, a deployment each.
        config: Replicas and engine arguments.

    Raises:
        ConfigError: Ray Serve LLM is not installed, refuses the settings, or cannot have its port.
        EngineError: It cannot be started, or not be reached from here.
    """
    name = _started(models, config)
    return f"{_proxy_url()}/{name}/v1"


def _started(models: dict[str, ResolvedModel], config: ServeConfig) -> str:
    # In no placement group: that of a trial has no room for Serve, and ends with the trial.
    outside = PlacementGroupSchedulingStrategy(placement_group=None)
    actor = ray.remote(_Starter).options(
        name="serve-starter", namespace=_NAMESPACE, get_if_exists=True, num_cpus=0, scheduling_strategy=outside
    )
    lost: Exception | None = None
    for _ in range(_STARTERS):
        starter = actor.remote()
        try:
            return ray.get(starter.start.remote(models, config))
        except ray.exceptions.RayActorError as error:  # it ended with the process that had made it
            lost = error
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, MPDFError) else error from None
    raise EngineError(
        f"Ray Serve could not be started: the actor that does it was lost {_STARTERS} times, last: {lost}"
    )


class _Starter:
    """An actor that starts applications one after the other, so that no two processes start the same one."""

    def start(self, models: dict[str, ResolvedModel], config: ServeConfig) -> str:
        """Starts what is not running; returns the application's name.

        Raises:
            ConfigError: Ray Serve LLM is not installed, refuses the settings, or cannot have its port.
            EngineError: The models do not start.
        """
        try:
            from ray import serve
            from ray.serve.llm import build_openai_app
        except ImportError as error:
            raise ConfigError(
                f"engine.kind: 'serve' needs Ray Serve LLM, which could not be imported ({error}). Install it by "
                '`pip install "mpdf-rllib[cpu]"`, or "mpdf-rllib[gpu]" where there is a GPU.'
            ) from error
        check_names(config.args)
        name = _application_name(models, config)
        host = _EVERYWHERE if sum(node["Alive"] for node in ray.nodes()) > 1 else _LOCAL
        try:
            serve.start(http_options={"host": host, "port": config.port, "location": "EveryNode"})
        except RuntimeError as error:  # of a proxy that this start made: one that was there is not asked
            with contextlib.suppress(Exception):
                serve.shutdown()
            reason = str(error).strip().splitlines()[-1]
            raise ConfigError(
                f"engine.port: Ray Serve could not start its HTTP proxy on port {config.port} ({reason}). Give another "
                "port as engine.port, or end what listens there."
            ) from None
        except TimeoutError as error:
            raise EngineError(
                f"Ray Serve's HTTP proxies did not start in time ({error}). The same command tries again; their logs "
                "lie in Ray's log folder, under serve/."
            ) from None
        running = serve.status().applications.get(name)
        if running and running.status in _GOING:
            return name
        try:
            app = build_openai_app(_serving_args(models, config))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"engine: Ray Serve LLM refuses {config.model_dump(exclude={'timeout_s'})}: {error}"
            ) from None
        try:
            serve.run(app, name=name, route_prefix=f"/{name}")
        except Exception as error:
            with contextlib.suppress(Exception):
                serve.delete(name)
            raise EngineError(
                f"Ray Serve could not start the models {', '.join(models)} with engine.args {config.args}: {error} "
                "The logs of its replicas lie in Ray's log folder, under serve/."
            ) from None
        return name


def _proxy_url() -> str:
    """Of the HTTP proxy on this node, or of another's."""
    from ray import serve
    from ray.serve.context import _get_global_client

    listening = _get_global_client().http_config
    proxies = [node for node, status in serve.status().proxies.items() if status == "HEALTHY"]
    here = ray.get_runtime_context().get_node_id()
    if listening.host == _LOCAL and here in proxies:
        return f"http://{_LOCAL}:{listening.port}"
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    if listening.host == _LOCAL or not proxies:
        raise EngineError(
            f"Ray Serve's HTTP proxies ({', '.join(addresses[node] for node in proxies) or 'none'}) listen on "
            f"{listening.host}, where this node does not reach them. Serve was started before: end it by "
            "`serve shutdown`, and the same command starts it for all nodes."
        )
    return f"http://{addresses[here if here in proxies else proxies[0]]}:{listening.port}"


def _application_name(models: dict[str, ResolvedModel], config: ServeConfig) -> str:
    """Other weights, names or settings are another application; how a process asks it is no setting of it."""
    settings = config.model_dump(mode="json", exclude={"timeout_s", "port", "concurrency"})
    served = sorted((served_name(name, model), model.fingerprint) for name, model in models.items())
    content = [served, settings]
    return f"mpdf-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]}"


def _serving_args(models: dict[str, ResolvedModel], config: ServeConfig) -> dict[str, Any]:
    from ray.serve.llm import LLMConfig

    configs = [LLMConfig(**_llm_config(name, model, config)) for name, model in models.items()]
    ingress = {"num_replicas": 1, "max_ongoing_requests": _QUEUED_REQUESTS, "ray_actor_options": {"num_cpus": 0}}
    return {"llm_configs": configs, "ingress_deployment_config": ingress}


def _llm_config(name: str, model: ResolvedModel, config: ServeConfig) -> dict[str, Any]:
    cpu = config.accelerator == "cpu" or (config.accelerator is None and not ray.cluster_resources().get("GPU"))
    source = name if is_hub_id(name) else model.path  # each node downloads it
    replicas = config.replicas
    scale: dict[str, Any] = {"num_replicas": replicas.max}
    if replicas.min < replicas.max:
        scale = {"autoscaling_config": {"min_replicas": replicas.min, "max_replicas": replicas.max}}
    hardware: dict[str, Any] = {"accelerator_type": config.accelerator}
    environment = dict(ENVIRONMENT)
    if cpu:
        # The replica's own CPU, which Ray Serve LLM adds to the first bundle, is all that it reserves.
        hardware = {"accelerator_config": {"kind": "cpu"}, "placement_group_config": {"bundles": [{"CPU": 0}]}}
        if (ray.cluster_resources().get("CPU", 0)) <= SMALL_MACHINE_CORES:
            environment["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
    return {
        "model_loading_config": {"model_id": served_name(name, model), "model_source": source},
        "engine_kwargs": DEFAULTS
        | (CPU_DEFAULTS if cpu else {})
        | {"tensor_parallel_size": config.tensor_parallel_size, "enable_prompt_tokens_details": True}
        | {"generation_config": "vllm"}  # a model's own top_k, penalties and so on are nothing that the config says
        | config.args,
        "deployment_config": scale | {"max_ongoing_requests": _QUEUED_REQUESTS},
        "log_engine_metrics": False,
        "runtime_env": {"env_vars": environment},
        **hardware,
    }
