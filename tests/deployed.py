"""What deploy/ says, read as its own tools read it: compose, the image, units, and what kustomize builds."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import yaml
from celery import Celery
from celery.bin.base import CLIContext
from celery.bin.worker import worker as celery_worker

from shoal.cli import shoal
from shoal.settings import PREFIX
from shoal_worker.sandbox.__main__ import main as sandbox
from shoal_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
UNITS = DEPLOY / "systemd"
K8S = DEPLOY / "k8s"
OVERLAYS = ("production", "sandbox")
#: What runs our code, wherever it is installed.
PROGRAM = "shoal"


@dataclass(frozen=True, slots=True)
class Started:
    """A command of ours, its environment, and where secrets lie for it. `named` is where it stands."""

    named: str
    command: list[str]
    environ: Mapping[str, str]
    secrets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.named}: {shlex.join(self.command)}"


def parsed(command: list[str]) -> dict[str, Any]:
    """The parameters of a `shoal …` command, by the real command line. Raises click's errors."""
    program, name, *arguments = command
    assert Path(program).name == PROGRAM
    context = click.Context(shoal)
    found = shoal.get_command(context, name)
    assert found is not None, f"no command {name}"
    ours = found.make_context(name, list(arguments))
    # Those two hand on what they do not know themselves.
    if name == "worker":
        celery = CLIContext(app=Celery(set_as_current=False), no_color=True, workdir=None)
        return dict(celery_worker.make_context("worker", list(arguments), obj=celery).params)
    if name == "sandbox":
        return dict(sandbox.make_context("sandbox", list(arguments)).params)
    return dict(ours.params)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Those of ours that no setting reads."""
    known = {PREFIX + name.upper() for name in WorkerSettings.model_fields}
    return [name for name in environ if name.startswith(PREFIX) and name not in known]


# --- compose ---------------------------------------------------------------------------------------------------------


@cache
def compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text())


def filled(text: str) -> str:
    """Variables at their defaults, and `$$` as the container sees it."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text).replace("$$", "$")


def in_compose() -> Iterator[Started]:
    for name, service in compose()["services"].items():
        if not filled(service["image"]).startswith(f"{PROGRAM}:"):
            continue
        environ = {key: filled(str(value)) for key, value in service.get("environment", {}).items()}
        secrets = tuple(service["secrets"])
        yield Started(f"compose {name}", [PROGRAM, *service["command"]], environ, secrets)
        probe = service.get("healthcheck", {}).get("test", [])
        if probe[1:2] == [PROGRAM]:
            yield Started(f"compose {name} healthcheck", probe[1:], environ, secrets)


# --- kubernetes ------------------------------------------------------------------------------------------------------


@cache
def built(overlay: str) -> list[Any]:
    """What `kubectl apply -k` would send, by the real kustomize: in kubectl, or alone."""
    tool = (
        [found, "kustomize"]
        if (found := shutil.which("kubectl"))
        else [shutil.which("kustomize") or "kustomize", "build"]
    )
    done = subprocess.run([*tool, str(K8S / overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pods(overlay: str) -> Iterator[tuple[str, Any]]:
    for one in built(overlay):
        if "template" in one.get("spec", {}):
            yield f"{one['kind']} {one['metadata']['name']}", one["spec"]["template"]["spec"]


def in_kubernetes(overlay: str) -> Iterator[Started]:
    maps = {one["metadata"]["name"]: one["data"] for one in built(overlay) if one["kind"] == "ConfigMap"}
    for named, pod in pods(overlay):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            if not re.search(rf"(^|/){PROGRAM}:", container["image"]):
                continue
            environ: dict[str, str] = {}
            for source in container.get("envFrom", []):
                environ |= maps[source["configMapRef"]["name"]]
            environ |= {pair["name"]: pair.get("value", "") for pair in container.get("env", [])}
            items = volumes.get("secrets", {}).get("secret", {}).get("items", [])
            secrets = tuple(item["key"] for item in items)
            where = f"{overlay} {named}"
            yield Started(where, [PROGRAM, *container["args"]], environ, secrets)
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if command := container.get(probe, {}).get("exec", {}).get("command"):
                    yield Started(f"{where} {probe}", command, environ, secrets)


# --- systemd ---------------------------------------------------------------------------------------------------------


def in_units() -> Iterator[Started]:
    for unit in sorted(UNITS.glob("*.service")):
        text = unit.read_text().replace("%%", "%").replace("%i", "1").replace("%d", "/run/credentials")
        environ = dict(pair.split("=", 1) for pair in re.findall(r"^Environment=(.*)$", text, re.MULTILINE))
        secrets = tuple(re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE))
        for line in re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE):
            for command in re.findall(r"/opt/shoal/bin/shoal [^;&|']*", line):
                yield Started(f"unit {unit.name}", shlex.split(command), environ, secrets)
