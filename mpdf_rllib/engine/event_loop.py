"""One background event loop a process, so that synchronous callers and the engines' coroutines meet on one loop."""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

_CLOSING_SECONDS = 30.0

# Reentrant: the garbage collector may call `finish` at any point.
_starting = threading.RLock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_owner: int | None = None


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine on the process's background event loop; returns its result, or raises what it raises.

    Ctrl-C in the caller cancels the coroutine, which then has `_CLOSING_SECONDS` to close what it opened; a second
    Ctrl-C does not wait. Not to be called from a coroutine that runs on that loop.
    """
    loop, ended = _background_loop(), threading.Event()
    running: list[asyncio.Task | None] = []

    async def to_its_end() -> Result:
        if ended.is_set():
            raise asyncio.CancelledError
        running.append(asyncio.current_task())
        try:
            return await coroutine
        finally:
            ended.set()

    def give_up() -> None:
        for task in running:
            if task:
                task.cancel()
        if not running:  # it has not begun, and will not
            coroutine.close()
            ended.set()

    try:
        return asyncio.run_coroutine_threadsafe(to_its_end(), loop).result()
    except BaseException:  # Ctrl-C may come before the future is here, so it is the task that is cancelled
        loop.call_soon_threadsafe(give_up)
        ended.wait(_CLOSING_SECONDS)
        raise


def finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a closing coroutine to its end; from the loop's own thread, where the garbage collector may be, later."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _background_loop())
    if threading.current_thread() is not _thread:
        future.result()


async def in_thread(function: Callable[[], Result]) -> Result:
    """Runs a function in a daemon thread, so also while the process ends, which it does not hold up.

    The threads of `asyncio.to_thread` do hold it up, and take no more work once the interpreter waits for them.
    """
    future: concurrent.futures.Future[Result] = concurrent.futures.Future()

    def work() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="mpdf-work", daemon=True).start()
    return await asyncio.wrap_future(future)


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop, _owner, _thread
    with _starting:
        if _loop is None or _owner != os.getpid():
            _loop, _owner = asyncio.new_event_loop(), os.getpid()
            _thread = threading.Thread(target=_loop.run_forever, name="mpdf-event-loop", daemon=True)
            _thread.start()
        return _loop
