"""`python -m mpdf_rllib.serve --run RUN`: a trained team as an OpenAI-compatible server, on Ray Serve.

Where MPDF_API_KEY is set, requests have to bring it.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

import ray
from ray import serve
from ray.serve.context import _get_global_client

from mpdf_rllib import cli
from mpdf_rllib.cluster import gpus_of, is_shared, start_ray
from mpdf_rllib.deliberation_team import DeliberationTeam
from mpdf_rllib.errors import ConfigError, EngineError
from mpdf_rllib.openai_server import API_KEY, TeamServer

NAME = "mpdf-rllib"
"""Of the Serve application."""
LOCAL = "127.0.0.1"
QUIET = {"log_level": "WARNING", "enable_access_log": False}


def start(options: argparse.Namespace) -> str:
    """Starts the server on this Ray instance; returns its base URL.

    Args:
        options: What the command was given.

    Raises:
        ConfigError: The port cannot be had, or the run cannot be served.
        DataError: There is no trained team.
        EngineError: The team's models do not start.
    """
    team = DeliberationTeam.from_run(options.run, options.credit, options.seed, options.overrides)
    prompts = team.prompts
    if not prompts:
        raise ConfigError(f"run: the questions of {team.config.name} are more than their text; they cannot be served")
    key = bool(os.environ.get(API_KEY))
    if team.config.engine.kind == "serve" and (key or options.host != LOCAL):
        raise ConfigError(
            f"engine.kind: serve: Ray Serve would give the models themselves to whoever reaches it, without {API_KEY}; "
            'serve the team with --set "engine={kind: vllm}", or without a key on this machine alone'
        )
    if options.host != LOCAL and not key:
        cli.console.print(f"[bold yellow]warning:[/] {API_KEY} is not set: whoever reaches {options.host} may ask.")
    start_ray()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(http_options={"host": options.host, "port": options.port}, logging_config=QUIET)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigError(f"port: {options.port} cannot be had ({reason}); give another by --port") from None
    listening = _get_global_client().http_config
    if (listening.host, listening.port) != (options.host, options.port):
        raise ConfigError(
            f"port: Ray Serve listens at {listening.host}:{listening.port} on this cluster already; give "
            f"--host {listening.host} --port {listening.port}"
        )
    server = TeamServer.options(  # type: ignore[attr-defined]  # serve.ingress says it is the class
        max_ongoing_requests=options.concurrency,
        max_queued_requests=options.queue,
        ray_actor_options={"num_cpus": team.config.record.cpus_per_worker, "num_gpus": gpus_of(team.config)},
    ).bind(
        str(Path(options.run).expanduser().absolute()),
        options.credit,
        options.seed,
        options.overrides,
        options.concurrency,
        key,
    )
    try:
        with cli.console.status("Loading the models"):
            serve.run(server, name=NAME, route_prefix="/", logging_config=QUIET)
    except Exception as error:
        raise EngineError(
            f"Ray Serve could not start the team ({error}); its replica's logs lie in Ray's log folder, under serve/"
        ) from error
    return f"http://{options.host}:{options.port}/v1"


def _command(options: argparse.Namespace) -> None:
    url = start(options)
    node = next(node for node in ray.nodes() if node["Alive"])
    metrics = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    cli.output.print(
        f"serving {options.run} at {url}, metrics at {metrics} ; Ctrl-C ends it", highlight=False, soft_wrap=True
    )
    try:
        while True:
            time.sleep(3600)
    finally:
        if is_shared():
            serve.delete(NAME)
        else:
            serve.shutdown()


def _number(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def arguments() -> argparse.ArgumentParser:
    """What the command is given."""
    parser = argparse.ArgumentParser(
        prog="python -m mpdf_rllib.serve",
        description="Serve a trained team by the OpenAI API. Where MPDF_API_KEY is set, requests have to bring it.",
    )
    cli.add_team(parser)
    parser.add_argument("--host", default=LOCAL, help="address to listen on; this machine's own by default")
    parser.add_argument("--port", type=int, default=8000, help="8000 by default")
    parser.add_argument("--concurrency", type=_number, default=64, help="questions debated at once; 64 by default")
    parser.add_argument(
        "--queue",
        type=_number,
        default=128,
        help="questions that wait beside them, and at most come at once, beyond which 503 is answered; 128 by default",
    )
    return parser


if __name__ == "__main__":
    given = arguments().parse_args()
    sys.exit(cli.status_of(lambda: _command(given), "the server is ended"))
