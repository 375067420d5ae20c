"""The files that run a server elsewhere: their commands exist, their variables are known, their schemas hold."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.environment import variables_of
from comic_upscale.settings.options import definitions
from tests.conftest import REPOSITORY
from tests.docs.test_examples import check_command

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

DEPLOY = REPOSITORY / "deploy"
COMPOSE = [DEPLOY / "compose.yaml", DEPLOY / "compose.prod.yaml"]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
KNOWN = {name for option in definitions(ServerSettings) for name in variables_of(option)}

pytestmark = pytest.mark.skipif(not DEPLOY.is_dir(), reason="needs the source tree")


def services(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, service in yaml.safe_load(path.read_text(encoding="utf-8"))["services"].items():
        if "build" in service:
            yield name, service


def targets() -> set[str]:
    return set(re.findall(r"^FROM \S+ AS (\S+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE))


def default_command() -> list[str]:
    """The command of the image of the server."""
    (text,) = re.findall(r"^CMD \[(\"serve\".*)\]$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    return [word.strip().strip('"') for word in text.split(",")]


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_runs_commands_and_sets_variables_that_exist(path: Path) -> None:
    content, found = yaml.safe_load(path.read_text(encoding="utf-8")), 0
    for name, service in services(path):
        found += 1
        assert service["build"]["target"] in targets()
        assert (path.parent / service["build"]["context"]).resolve() == REPOSITORY
        command = service.get("command", default_command())
        check_command(command)
        assert set(service.get("environment", {})) <= KNOWN, name
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in content["volumes"]
        for other in service.get("depends_on", {}):
            assert other in content["services"]
    assert found


def test_every_variable_of_the_compose_file_is_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.prod.yaml").read_text(encoding="utf-8")))
    given = set(
        re.findall(r"^(\w+)=", (DEPLOY / "prod.env.example").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert used == given
    # Kubernetes gets the same file: the server knows all that are not for the other containers.
    assert given - KNOWN == {"DOMAIN", "POSTGRES_PASSWORD"}
    assert "{$DOMAIN}" in (DEPLOY / "Caddyfile").read_text(encoding="utf-8")


def _answers(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return not subprocess.run([*command, "version"], capture_output=True).returncode


def test_caddy_reads_its_file() -> None:
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("caddy is not here: apt-get install caddy")
    read = subprocess.run(
        [caddy, "adapt", "--config", str(DEPLOY / "Caddyfile"), "--validate"],
        env={"DOMAIN": "comics.example"}, capture_output=True, text=True,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    (site,) = json.loads(read.stdout)["apps"]["http"]["servers"]["srv0"]["routes"]
    assert site["match"] == [{"host": ["comics.example"]}]


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_docker_compose_reads_the_files(path: Path) -> None:
    command = next(filter(_answers, (["docker", "compose"], ["docker-compose"])), None)
    if command is None:
        pytest.skip("docker compose is not here: apt-get install docker-compose")
    example = (DEPLOY / "prod.env.example").read_text(encoding="utf-8")
    values = dict(line.split("=", 1) for line in example.splitlines() if "=" in line and line[0] != "#")
    read = subprocess.run(
        [*command, "-f", str(path), "config", "--quiet"],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", **{name: text or "x" for name, text in values.items()}},
        capture_output=True, text=True,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr


def test_the_image_of_the_batch_tool_is_what_a_build_makes() -> None:
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM .* AS (\S+)$", text, re.MULTILINE)[-1] == "batch"
    check_command(default_command())


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_start_commands_that_exist(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text(encoding="utf-8").replace("%i", "0")
    (command,) = (line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart="))
    program, *words = shlex.split(command)
    assert program == "/opt/comic-upscale/bin/comic-upscale"
    check_command(words)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: apt-get install systemd")
    # The name of an instance stands in the name of its file. The program is installed elsewhere here.
    here = tmp_path / unit.name.replace("@.", "@0.")
    here.write_text(unit.read_text(encoding="utf-8").replace(program, sys.executable), encoding="utf-8")
    command = ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", str(here)]
    verified = subprocess.run(command, capture_output=True, text=True)
    # Units of this machine may have faults of their own.
    faults = [line for line in verified.stderr.splitlines() if here.name in line]
    assert (verified.returncode, faults) == (0, [])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_hold_and_start_commands_that_exist(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert [document["kind"] for document in documents] == ["Deployment", "Deployment", "Service", "Ingress"]
    ports = {port["name"] for port in documents[2]["spec"]["ports"]}
    for document in documents[:2]:
        spec = document["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
        (container,) = spec["template"]["spec"]["containers"]
        check_command(container["args"])
    (container,) = documents[0]["spec"]["template"]["spec"]["containers"]
    assert {port["name"] for port in container["ports"]} == ports
    assert documents[2]["spec"]["selector"] == documents[0]["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_have_the_schema_of_kubernetes(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        validate.validate(document, validate.latest_version(), strict=True)


def _ray_cluster(name: str) -> dict[str, Any]:
    """Return the description of a cluster, after Ray's own schema has accepted it."""
    jsonschema = pytest.importorskip("jsonschema", reason="pip install 'ray' brings it")
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:
        pytest.skip("ray is not installed: pip install '.[ray]'")
    schema = json.loads(
        (Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8")
    )
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "ray" / name).read_text(encoding="utf-8"))
    jsonschema.validate(content, schema)
    return content


def test_the_cluster_of_ray_on_aws_has_a_head_and_no_more_machines_than_it_says() -> None:
    content = _ray_cluster("cluster.yaml")
    types = content["available_node_types"]
    assert content["head_node_type"] in types
    assert all(each.get("max_workers", 0) <= content["max_workers"] for each in types.values())


def test_ray_on_own_machines_puts_the_program_where_its_shells_look(tmp_path: Path) -> None:
    content = _ray_cluster("own-machines.yaml")
    *_, path = content["setup_commands"]
    program = tmp_path / "comic-upscale" / "bin" / "ray"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho found\n", encoding="utf-8")
    program.chmod(0o755)
    shell = {"HOME": str(tmp_path), "PATH": os.defpath}
    # A second `ray up` runs it again.
    for _ in range(2):
        subprocess.run(["bash", "-c", path], env=shell, check=True)
    assert (tmp_path / ".bashrc").read_text(encoding="utf-8").count("comic-upscale/bin") == 1
    found = subprocess.run(
        ["bash", "-c", ". ~/.bashrc; ray"], env=shell, check=True, capture_output=True, text=True
    )
    assert found.stdout == "found\n"


def test_the_job_of_kuberay_starts_a_command_that_exists_on_pods_that_hold() -> None:
    content = yaml.safe_load((DEPLOY / "ray" / "kuberay.yaml").read_text(encoding="utf-8"))
    assert (content["apiVersion"], content["kind"]) == ("ray.io/v1", "RayJob")
    program, *words = shlex.split(content["spec"]["entrypoint"])
    assert program == "comic-upscale"
    check_command(words)
    cluster = content["spec"]["rayClusterSpec"]
    groups = cluster["workerGroupSpecs"]
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in groups)
    assert str(groups[0]["maxReplicas"]) == words[words.index("--cluster-actors") + 1]
    images = set()
    for group in (cluster["headGroupSpec"], *groups):
        spec = group["template"]["spec"]
        images |= {container["image"] for container in spec["containers"]}
        named = {volume["name"] for volume in spec.get("volumes", ())}
        assert {
            mount["name"] for each in spec["containers"] for mount in each.get("volumeMounts", ())
        } <= named
    # Another version on a worker is refused.
    assert len(images) == 1
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for group in (cluster["headGroupSpec"], *groups):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        validate.validate(pod, validate.latest_version(), strict=True)
