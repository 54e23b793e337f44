"""vLLM inside this process, with continuous batching: every request is in flight from the moment it is made."""

import asyncio
import contextlib
import dataclasses
import difflib
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mpdf_rllib.engine.event_loop import in_thread
from mpdf_rllib.engine.models import resolve_model
from mpdf_rllib.engine.types import Generation, GenerationRequest
from mpdf_rllib.engine.vllm_requests import ask, failures
from mpdf_rllib.engine.watchdog import Watchdog
from mpdf_rllib.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

SMALL_MACHINE_CORES = 4
ENVIRONMENT = {
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "3600",
}
DEFAULTS: dict[str, Any] = {
    "disable_log_stats": True,
    "enable_prefix_caching": True,
    "use_tqdm_on_load": False,
    # Small models fill a JSON object with endless white space where they may. guidance alone bounds a string's length
    # and still has escapes in it: xgrammar forbids quotation marks, backslashes and line ends there.
    "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
}
CPU_DEFAULTS: dict[str, Any] = {
    "block_size": 32,
    "dtype": "bfloat16",
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2 << 30,
    "max_model_len": -1,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 128,
}
_ATTEMPTS = 2
_KILL_AGAIN_SECONDS = 0.5
_loading = threading.Lock()


class VLLMEngine:
    """A model served by vLLM's AsyncLLM, loaded by the first request, in that request's event loop.

    All requests are to be made from one event loop. When vLLM dies it is loaded again and what was in flight is asked
    again; a request in which it dies twice fails. No process of it outlives this one.
    """

    def __init__(self, model: str, args: dict[str, Any] | None = None) -> None:
        """Loads nothing yet.

        Args:
            model: The packaged model's name, a local folder or a Hugging Face hub id.
            args: vLLM's engine arguments, by the names of its AsyncEngineArgs, over the defaults made for this machine:
                on a CPU eager mode in bfloat16 with 2 GiB of key-value cache and the longest context that fits there;
                on a GPU vLLM's own.
        """
        self._model = model
        self._args = dict(args or {})
        self._engine: asyncio.Future[AsyncLLM] | None = None
        self._watchdog: Watchdog | None = None
        self._closed = False

    async def generate(self, request: GenerationRequest) -> Generation:
        """Answers one request.

        Raises:
            ConfigError: vLLM isn't installed, refuses the model or an argument, or two score words start alike.
            PromptError: The prompt is longer than the model's context.
            EngineError: vLLM could not be loaded, or failed twice on this request.
        """
        failure: Exception | None = None
        again = ""
        for _ in range(_ATTEMPTS):
            self._check_open()
            engine = self._loading()
            llm = await asyncio.shield(engine)
            try:
                return await ask(llm, request)
            except failures() as error:
                failure = error
            if llm.errored and self._engine is engine:
                self._engine = None
                llm.shutdown(timeout=0)
                again = ", and was started again for it"
        raise EngineError(
            f"The engine of {self._model!r} failed twice on question {request.position.question!r} "
            f"({failure}){again}. What was recorded is kept: the same command goes on there. If it was killed for "
            "memory, lower engine.args.max_num_seqs or engine.args.kv_cache_memory_bytes; VLLM_LOGGING_LEVEL=INFO "
            "shows vLLM's own log."
        ) from failure

    async def llm(self) -> "AsyncLLM":
        """The engine of vLLM itself, loaded when it is first needed."""
        return await asyncio.shield(self._loading())

    async def reset_prefix_cache(self) -> None:
        """Forgets all cached prompt prefixes, where the engine is loaded. No request may be in flight."""
        if self._engine is not None:
            await (await asyncio.shield(self._engine)).reset_prefix_cache()

    async def close(self) -> None:
        """Ends vLLM and every process of it, also while it loads. Idempotent."""
        self._closed = True
        engine, self._engine = self._engine, None
        if self._watchdog is None:
            return  # a load that has started nothing yet gives up by itself
        while engine and not engine.done():
            await in_thread(self._watchdog.kill)
            await asyncio.wait([engine], timeout=_KILL_AGAIN_SECONDS)
        if engine and not engine.cancelled() and not engine.exception():
            await _shut_down(engine.result())
        await in_thread(self._watchdog.close)

    def _loading(self) -> "asyncio.Future[AsyncLLM]":
        if self._engine is None:
            self._engine = asyncio.ensure_future(in_thread(self._load))
        return self._engine

    def _load(self) -> "AsyncLLM":
        with _loading:
            return self._load_alone()

    def _load_alone(self) -> "AsyncLLM":
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if len(os.sched_getaffinity(0)) <= SMALL_MACHINE_CORES:
            os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")  # vLLM keeps one for its scheduler otherwise
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.async_llm import AsyncLLM
        except (ImportError, RuntimeError) as error:  # RuntimeError: torch beside a torchvision of another build
            raise ConfigError(
                f"The engine needs vLLM, which could not be imported ({error}). "
                'Install it by `pip install "mpdf-rllib[cpu]"`, or "mpdf-rllib[gpu]" where there is a GPU.'
            ) from error
        check_names(self._args)
        model = resolve_model(self._model)
        defaults = DEFAULTS | (CPU_DEFAULTS if current_platform.is_cpu() else {})
        try:
            arguments = AsyncEngineArgs(model=model.path, **defaults | self._args)
            # From the context vLLM takes how many sequences go at once where the arguments do not say it.
            config = arguments.create_engine_config(usage_context=UsageContext.LLM_CLASS)
        except (OSError, ValueError, TypeError) as error:  # OSError: a file of the model is missing
            raise ConfigError(
                f"engine.args: vLLM refuses {self._args} for the model {self._model!r}: {error}"
            ) from error
        if self._watchdog is None:
            self._watchdog = Watchdog()
            weakref.finalize(self, self._watchdog.close)
        self._watchdog.kill()  # where it died and is loaded again
        self._check_open()
        try:
            with self._watchdog.marking(), _main_module_hidden():
                return AsyncLLM.from_vllm_config(config)
        except Exception as error:
            self._check_open()
            raise EngineError(
                f"vLLM could not load the model {self._model!r} with engine.args {self._args}: {error} "
                "VLLM_LOGGING_LEVEL=INFO shows vLLM's own log."
            ) from error

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"The engine of {self._model!r} was closed.")


def check_names(args: dict[str, Any]) -> None:
    """Checks that vLLM, which has to be installed, knows all arguments.

    Raises:
        ConfigError: It does not; names the nearest that it knows.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)} - {"model", "revision"}
    if "revision" in args:
        raise ConfigError(
            f"engine.args.revision: {args['revision']!r}: models of the hub are taken as their main branches are; "
            "download the revision (`hf download NAME --revision ...`) and give its folder as team.model"
        )
    for name in args:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"Did you mean engine.args.{nearest[0]}?" if nearest else "Take a name of vLLM's AsyncEngineArgs."
            raise ConfigError(f"engine.args.{name}: vLLM has no such engine argument. {hint}")


async def _shut_down(llm: "AsyncLLM") -> None:
    if llm.output_handler and not llm.get_num_unfinished_requests():
        llm.output_handler.cancel()  # otherwise it fails whatever is in flight, and logs that
    await in_thread(llm.shutdown)


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Within, spawned processes do not run the caller's script again: it needs no guard, and they start sooner."""
    main = vars(sys.modules["__main__"])
    hidden = {name: main.pop(name, None) for name in ("__spec__", "__file__")}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update({name: value for name, value in hidden.items() if value is not None})
