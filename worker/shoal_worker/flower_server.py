"""Flower itself, on the same queue through Celery's stock client, without its results: its API would show answers."""

import os
import signal
from typing import Any

import click
from celery import Celery
from flower.app import Flower
from flower.command import apply_env_options, extract_settings
from flower.options import options
from flower.urls import settings as flower_settings
from flower.views.monitor import Metrics
from tornado.web import OutputTransform, authenticated

from shoal import wire
from shoal.control import client_app
from shoal.errors import SettingsError
from shoal_worker import logs
from shoal_worker.flower_access import LOGIN, Access
from shoal_worker.settings import WorkerSettings

#: What the list of tasks shows: sizes and costs beside Flower's own.
COLUMNS = "name,state,kwargs,result,uuid,received,runtime,worker"
#: A worker that is gone for so long leaves the pages, and `/metrics` forgets it.
GONE_SECONDS = 3_600
#: A task takes 5 kB, and to save 20,000 of them a second in which no page is served.
MOST_TASKS = 20_000


class ClosedMetrics(Metrics):
    """Flower shows its own to everybody."""

    @authenticated
    async def get(self) -> None:
        await super().get()


class Unframed(OutputTransform):
    """No other page may show Flower within itself: a click there would be a command to the workers."""

    def transform_first_chunk(self, status_code: int, headers: Any, chunk: bytes, finishing: bool) -> Any:
        """Tornado's hook."""
        del finishing
        headers["X-Frame-Options"] = "DENY"
        headers["Content-Security-Policy"] = "frame-ancestors 'none'"
        headers["Referrer-Policy"] = "same-origin"
        return status_code, headers, chunk


def watched(settings: WorkerSettings) -> Celery:
    """The queue's client that Flower looks through."""
    app = client_app(settings.queue)
    app.conf.update(task_default_queue=wire.QUEUE, accept_content=["json"])
    return app


def configure(access: Access, **chosen: Any) -> None:
    """Flower's options are one for a process. `chosen` go before its variables, and those before our defaults.

    Raises `SettingsError`.
    """
    logs.configure("WARNING")
    options.tasks_columns, options.purge_offline_workers, options.max_tasks = COLUMNS, GONE_SECONDS, MOST_TASKS
    os.environ.pop("FLOWER_PORT", None)  # it is among the chosen ones, where it is a number
    try:
        apply_env_options()
    except ValueError:
        raise SettingsError("FLOWER_…: one of these variables is no number, or neither true nor false") from None
    options.basic_auth = list(access.logins)
    if access.oauth2_secret:
        options.oauth2_secret, options.cookie_secret = access.oauth2_secret, access.cookie_secret
    for name, value in chosen.items():
        setattr(options, name, value)
    extract_settings()


def serve(app: Celery) -> None:
    """Until Ctrl-C or SIGTERM. Raises `SettingsError` when it cannot listen."""
    server = Flower(capp=app, options=options, **flower_settings)
    prefix = f"/{options.url_prefix.strip('/')}" if options.url_prefix else ""
    server.add_handlers(".*", [(f"{prefix}/metrics", ClosedMetrics)])
    server.add_transform(Unframed)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        port = server.start_http_server()
        said = "" if options.basic_auth or options.auth else f"; to command workers from it set {LOGIN}"
        scheme = "https" if server.ssl_options else "http"
        click.echo(f"Flower  {scheme}://{options.address}:{port}{prefix}{said}")
        server.start()
    except OSError as error:
        raise SettingsError(f"--host, --port: nobody can listen at {options.address}:{options.port}: {error}") from None
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
