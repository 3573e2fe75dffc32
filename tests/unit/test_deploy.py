"""deploy/ stands against the code: every command, variable, secret, port and path in it is real."""

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployed import (
    COMPOSE,
    DEPLOY,
    DOCKERFILE,
    OVERLAYS,
    PROGRAM,
    ROOT,
    UNITS,
    Started,
    built,
    compose,
    filled,
    in_compose,
    in_kubernetes,
    in_units,
    parsed,
    pods,
    unknown_variables,
)
from shoal_worker import services
from shoal_worker.settings import WorkerSettings

TOOLS = Path(sys.executable).parent
needs_kustomize = pytest.mark.skipif(
    not (shutil.which("kubectl") or shutil.which("kustomize")), reason="no kubectl and no kustomize: no wheel has it"
)


def of_kubernetes() -> list[Started]:
    has_tool = shutil.which("kubectl") or shutil.which("kustomize")
    return [started for overlay in OVERLAYS for started in in_kubernetes(overlay)] if has_tool else []


COMMANDS = [*in_compose(), *in_units(), *of_kubernetes()]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("started", COMMANDS, ids=str)
def test_each_command_is_one_that_the_command_line_takes(started: Started) -> None:
    parsed(started.command)


@pytest.mark.parametrize("started", COMMANDS, ids=str)
def test_each_variable_and_each_secret_is_a_setting(started: Started) -> None:
    ours = {name.upper(): "" for name in started.secrets if name.startswith("shoal_")}
    assert unknown_variables({**started.environ, **ours}) == []
    others = {name for name in started.secrets if not name.startswith("shoal_")}
    assert others <= {"flower_basic_auth"}


@pytest.mark.parametrize("started", [one for one in COMMANDS if one.command[1] == "worker"], ids=str)
def test_a_worker_has_a_key_and_its_own_name(started: Started) -> None:
    assert "shoal_openrouter_api_key" in started.secrets
    assert started.command[started.command.index("-n") + 1].endswith("@%h")
    assert parsed(started.command)["hostname"].endswith(f"@{socket.gethostname()}")


def test_a_stop_is_granted_more_than_the_workers_grace() -> None:
    grace = WorkerSettings.model_fields["shutdown_grace_seconds"].default
    worker = compose()["services"]["worker"]
    assert float(worker["environment"]["SHOAL_SHUTDOWN_GRACE_SECONDS"]) == grace
    granted = [int(worker["stop_grace_period"].removesuffix("s"))]
    granted += map(int, re.findall(r"TimeoutStopSec=(\d+)", (UNITS / "shoal-worker@.service").read_text()))
    deployment = yaml.safe_load((DEPLOY / "k8s" / "base" / "worker.yaml").read_text().split("\n---\n")[0])
    granted.append(deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])
    assert len(granted) == 3
    assert min(granted) > grace


# --- the image -------------------------------------------------------------------------------------------------------


def test_the_image_copies_what_is_there_and_what_docker_is_shown() -> None:
    text = DOCKERFILE.read_text()
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for name in line.split()[:-1]]
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == shown
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_is_small_locked_and_nobodys() -> None:
    _, final = DOCKERFILE.read_text().split("\nFROM python:${PYTHON}\n")
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "apt-get" not in final
    assert not re.search(r"\bpip\b", final)
    installs = re.findall(r"pip install (.*)", DOCKERFILE.read_text())
    assert installs
    assert all(line.startswith("--constraint requirements.lock ") for line in installs)
    entry = yaml.safe_load(final.partition("\nENTRYPOINT ")[2].partition("\n")[0])
    default = yaml.safe_load(final.partition("\nCMD ")[2].partition("\n")[0])
    parsed([*entry, *default])


def test_hadolint_finds_nothing() -> None:
    assert run(str(TOOLS / "hadolint"), str(DOCKERFILE)) == ""


# --- compose ---------------------------------------------------------------------------------------------------------


def test_compose_is_valid_by_its_schema() -> None:
    run(str(TOOLS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE))


@pytest.mark.parametrize("name", compose()["services"])
def test_a_service_is_locked_down_watched_and_bounded(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].partition(":")[0] not in ("", "0", "root")
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory"} <= set(limits)
    # These end by themselves, or answer nobody.
    assert "healthcheck" in service or name in ("migrate", "beat", "sandbox")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    tag = service["image"].rpartition(":")[2]
    assert tag != "latest" or "SHOAL_IMAGE" in service["image"]


def test_what_a_service_names_is_there(tmp_path: Path) -> None:
    known = compose()
    made = run("sh", str(DEPLOY / "docker" / "secrets.sh"), str(tmp_path / "secrets"))
    assert made == ""
    assert {one["file"].rpartition("/")[2] for one in known["secrets"].values()} == {
        path.name for path in (tmp_path / "secrets").iterdir()
    }
    named_secrets, named_volumes = set[str](), set[str]()
    for service in known["services"].values():
        named_secrets |= set(service.get("secrets", []))
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (ROOT / source).exists()
                assert volume.endswith(":ro")
            else:
                named_volumes.add(source)
        depends = service.get("depends_on", {})
        assert set(depends) <= set(known["services"])
        if isinstance(depends, dict):
            for other, wanted in depends.items():
                is_checked = "healthcheck" in known["services"][other]
                assert is_checked == (wanted["condition"] == "service_healthy")
    assert named_secrets == set(known["secrets"])
    assert named_volumes == set(known["volumes"])


def test_ports_are_those_that_the_commands_listen_on() -> None:
    services_ = compose()["services"]
    listens = {
        name: parsed([PROGRAM, *services_[name]["command"]])["port"] for name in ("flower", "metrics", "sandbox")
    }
    assert services_["flower"]["ports"] == [f"127.0.0.1:{listens['flower']}:{listens['flower']}"]
    assert services_["metrics"]["expose"] == [str(listens["metrics"])]
    assert services_["sandbox"]["expose"] == [str(listens["sandbox"])]
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert scraped[0]["static_configs"][0]["targets"] == [f"metrics:{listens['metrics']}"]
    sandbox_env = (DEPLOY / "docker" / "sandbox.env").read_text()
    assert f"http://sandbox:{listens['sandbox']}/api/v1" in sandbox_env
    for name in ("flower", "metrics"):
        assert f"127.0.0.1:{listens[name]}/" in str(services_[name]["healthcheck"]["test"])


def test_the_queues_command_starts_a_server_with_a_password_that_evicts_nothing(tmp_path: Path) -> None:
    import redis

    run("sh", str(DEPLOY / "docker" / "secrets.sh"), str(tmp_path / "secrets"))
    (tmp_path / "data").mkdir()
    (tmp_path / "valkey-server").symlink_to(services.valkey_executable())
    port = services.free_port()
    program, flag, script = compose()["services"]["redis"]["command"]
    script = (
        filled(script).replace("/run/secrets", str(tmp_path / "secrets")).replace("dir /data", f"dir {tmp_path}/data")
    )
    script = script.replace("valkey-server -", f"{tmp_path}/valkey-server - --port {port}")
    password = (tmp_path / "secrets" / "redis_password").read_text()
    assert f":{password}@redis:6379" in (tmp_path / "secrets" / "shoal_redis_url").read_text()
    tree = services.Services({"PATH": "/usr/bin:/bin"}, tmp_path)
    tree.start("valkey", [program, flag, script])
    try:
        tree.await_condition("valkey", lambda: services.answers_ping(f"redis://:{password}@127.0.0.1:{port}/0"))
        assert not services.answers_ping(f"redis://127.0.0.1:{port}/0")
        with redis.Redis(port=port, password=password) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
    finally:
        tree.stop()


# --- kubernetes ------------------------------------------------------------------------------------------------------


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kustomize_builds_is_valid_by_the_schemas_of_kubernetes_and_its_operators(overlay: str) -> None:
    import kubernetes_validate
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

    models: dict[str, Any] = {model.__name__: model for model in (ScaledObject, PrometheusRule, ServiceMonitor)}
    for one in built(overlay):
        if one["kind"] in models:
            read = models[one["kind"]].model_validate(one)
            # What the model does not know it leaves out.
            assert read.model_dump(by_alias=True, exclude_unset=True, mode="json")["spec"] == one["spec"]
        elif one["kind"] != "ExternalSecret":
            kubernetes_validate.validate(one, desired_version=kubernetes_validate.latest_version(), strict=True)


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_meet_the_restricted_standard(overlay: str) -> None:
    for named, pod in pods(overlay):
        assert pod["automountServiceAccountToken"] is False, named
        assert pod["securityContext"]["runAsNonRoot"] is True, named
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, named
        for container in pod["containers"]:
            locked = container["securityContext"]
            assert locked["allowPrivilegeEscalation"] is False, named
            assert locked["readOnlyRootFilesystem"] is True, named
            assert locked["capabilities"] == {"drop": ["ALL"]}, named
            assert {"requests", "limits"} <= set(container["resources"]), named


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_ports_and_secrets_of_kubernetes_meet(overlay: str) -> None:
    known = built(overlay)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in known if one["kind"] == "Deployment"]
    ports = {port["name"] for _, pod in pods(overlay) for c in pod["containers"] for port in c.get("ports", [])}
    for one in known:
        if one["kind"] == "Service":
            assert any(one["spec"]["selector"].items() <= label.items() for label in labels)
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= ports
        if one["kind"] == "PodDisruptionBudget":
            assert any(one["spec"]["selector"]["matchLabels"].items() <= label.items() for label in labels)
        if one["kind"] == "ServiceMonitor":
            wanted = one["spec"]["selector"]["matchLabels"].items()
            [service] = [s for s in known if s["kind"] == "Service" and wanted <= s["metadata"]["labels"].items()]
            assert one["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
        if one["kind"] == "ScaledObject":
            deployments = {d["metadata"]["name"] for d in known if d["kind"] == "Deployment"}
            assert one["spec"]["scaleTargetRef"]["name"] in deployments
    made = {
        key
        for one in known
        for key in (
            one.get("stringData", one.get("data", {}))
            if one["kind"] == "Secret"
            else [item["secretKey"] for item in one["spec"]["data"]]
            if one["kind"] == "ExternalSecret"
            else []
        )
    }
    assert {secret for started in in_kubernetes(overlay) for secret in started.secrets} <= made
    names = {p["containerPort"] for _, pod in pods(overlay) for c in pod["containers"] for p in c.get("ports", [])}
    assert {parsed([PROGRAM, "flower"])["port"], parsed([PROGRAM, "metrics"])["port"]} <= names


# --- systemd ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here: no wheel has it")
def test_units_are_right_and_locked_down(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/shoal/bin/shoal", str(TOOLS / PROGRAM))
        (tmp_path / unit.name).write_text(text)
    assert run("systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))) == ""
    for name in ("shoal-worker@", "shoal-beat", "shoal-flower", "shoal-metrics"):
        said = run("systemd-analyze", "security", "--offline=true", "--threshold=20", str(tmp_path / f"{name}.service"))
        assert "Overall exposure level" in said
