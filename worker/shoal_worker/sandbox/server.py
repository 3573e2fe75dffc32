"""The sandbox as a web application, and its life as a server."""

import asyncio
import signal
from collections.abc import Callable

from aiohttp import web

from shoal_worker.sandbox import control, lookups
from shoal_worker.sandbox.chat import SANDBOX, Sandbox
from shoal_worker.sandbox.scenario import Scenario

API = "/api/v1"
BODY_MAX_BYTES = 20 * 1024 * 1024
_BACKLOG = 4096
_IDLE_SECONDS = 75.0
_STOP_SECONDS = 1.0


def make_app(scenario: Scenario) -> web.Application:
    """The application; one Sandbox lives in it, under `SANDBOX`."""
    sandbox = Sandbox(scenario)
    app = web.Application(client_max_size=BODY_MAX_BYTES)
    app[SANDBOX] = sandbox
    app.add_routes(
        [
            web.post(f"{API}/chat/completions", sandbox.complete),
            web.get(f"{API}/models", lookups.models),
            web.get(f"{API}/models/{{author}}/{{slug}}/endpoints", lookups.endpoints),
            web.get(f"{API}/key", lookups.key),
            web.get(f"{API}/credits", lookups.credit),
            web.get(f"{API}/generation", lookups.generation),
            web.get("/sandbox/requests", control.requests),
            web.get("/sandbox/bill", control.bill),
            web.post("/sandbox/scenario", control.scenario),
            web.post("/sandbox/reset", control.reset),
            web.route("*", "/{anything:.*}", lookups.nothing),
        ]
    )
    return app


async def serve(scenario: Scenario, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` hears the base URL when connections are accepted."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        make_app(scenario), access_log=None, keepalive_timeout=_IDLE_SECONDS, shutdown_timeout=_STOP_SECONDS
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        announce(f"http://{shown}:{bound}{API}")
        await stop.wait()
    finally:
        await runner.cleanup()
