"""`shoal metrics`: the fleet's figures over HTTP, for Prometheus, KEDA or an HPA. One for all workers, none needed."""

import asyncio
import threading
from collections.abc import Iterable

import click
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shoal.errors import QueueUnavailable
from shoal.overview import Lookout, Overview, seen_queue
from shoal.settings import ProducerSettings
from shoal_worker.metrics import GAUGES, samples


class FleetCollector(Collector):
    """Looks when it is asked."""

    def __init__(self, settings: ProducerSettings) -> None:
        self._settings = settings

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [GaugeMetricFamily(gauge.name, gauge.meaning) for gauge in GAUGES]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        found = list(samples(self._seen()))
        for gauge in GAUGES:
            family = GaugeMetricFamily(gauge.name, gauge.meaning, labels=[gauge.label] if gauge.label else [])
            for known, label, number in found:
                if known is gauge:
                    family.add_metric([label] if gauge.label else [], number)
            if family.samples:
                yield family

    def _seen(self) -> Overview | None:
        try:
            return asyncio.run(overview(self._settings))
        except QueueUnavailable:
            return None


async def overview(settings: ProducerSettings) -> Overview:
    """One look. Raises `QueueUnavailable`."""
    async with Lookout(settings) as lookout:
        return await lookout.look()


@click.command()
@click.option("--port", default=9540, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 shows them to everybody.")
def metrics(port: int, host: str) -> None:
    """Serve the fleet's figures at /metrics."""
    settings = ProducerSettings.load()
    seen_queue(settings)
    registry = CollectorRegistry()
    registry.register(FleetCollector(settings))
    start_http_server(port, host, registry)
    click.echo(f"http://{host}:{port}/metrics")
    threading.Event().wait()
