"""`shoal metrics`: the fleet's figures over HTTP, for Prometheus, KEDA or an HPA. One for all workers, none needed."""

import asyncio
import threading
from collections.abc import Iterable

import click
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shoal.errors import QueueUnavailable, SettingsError
from shoal.fleet import FleetView, open_fleet
from shoal.publisher import is_amqp
from shoal.settings import ProducerSettings
from shoal_worker.metrics import GAUGES, samples

LOOK_SECONDS = 10.0


class FleetCollector(Collector):
    """Looks when it is asked."""

    def __init__(self, queue_url: str) -> None:
        self._queue_url = queue_url

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [GaugeMetricFamily(gauge.name, gauge.meaning) for gauge in GAUGES]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        found = list(samples(self._view()))
        for gauge in GAUGES:
            family = GaugeMetricFamily(gauge.name, gauge.meaning, labels=[gauge.label] if gauge.label else [])
            for known, label, number in found:
                if known is gauge:
                    family.add_metric([label] if gauge.label else [], number)
            if family.samples:
                yield family

    def _view(self) -> FleetView | None:
        async def look() -> FleetView:
            fleet = open_fleet(self._queue_url)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    return await fleet.look()
            finally:
                await fleet.aclose()

        try:
            return asyncio.run(look())
        except (QueueUnavailable, TimeoutError):
            return None


@click.command()
@click.option("--port", default=9540, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 shows them to everybody.")
def metrics(port: int, host: str) -> None:
    """Serve the fleet's figures at /metrics."""
    queue_url = ProducerSettings.load().queue.get_secret_value()
    if is_amqp(queue_url):
        raise SettingsError("workers tell of themselves in Redis, and SHOAL_QUEUE_URL is a RabbitMQ: ask it instead")
    registry = CollectorRegistry()
    registry.register(FleetCollector(queue_url))
    start_http_server(port, host, registry)
    click.echo(f"http://{host}:{port}/metrics")
    threading.Event().wait()
