"""The compose file and the manifest of Kubernetes: of their schemas, and of names, ports and paths that are there."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from streambed.cli.serve import serve
from streambed.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "dashboards" / "compose.yml"
KUBERNETES = ROOT / "deploy" / "kubernetes.yaml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def kubernetes() -> dict[str, dict[str, Any]]:
    """Documents by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(KUBERNETES.read_text())}


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = kubernetes()["Deployment"]["spec"]["template"]["spec"]
    return spec


def kubernetes_container() -> tuple[list[str], dict[str, str]]:
    """Arguments and variables, but for the key, which a secret has."""
    (container,) = pod()["containers"]
    environment = {}
    for each in container["env"]:
        if "value" in each:
            environment[each["name"]] = each["value"]
        elif "resourceFieldRef" in each["valueFrom"]:
            _, kind, name = f"resources.{each['valueFrom']['resourceFieldRef']['resource']}".split(".")
            environment[each["name"]] = container["resources"][kind][name]
    return list(container["args"]), environment


def compose_server() -> dict[str, str]:
    """Variables, with the default of each that the caller's environment may set."""
    given = compose()["services"]["server"]["environment"]
    filled = {
        name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)) for name, value in given.items() if value is not None
    }
    assert not any("$" in value for value in filled.values())
    return filled


# Schemas


def compose_faults(loaded: dict[str, Any], folder: Path) -> str:
    """What the schema of the Compose Specification finds."""
    file = folder / "compose.json"
    file.write_text(json.dumps(loaded))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout if done.returncode else ""


@pytest.mark.slow
def test_compose_is_of_its_schema(tmp_path: Path) -> None:
    assert compose_faults(compose(), tmp_path) == ""
    wrong = compose()
    wrong["services"]["server"]["prots"] = wrong["services"]["server"].pop("ports")
    assert "prots" in compose_faults(wrong, tmp_path)


@pytest.mark.slow
def test_kubernetes_is_of_its_schema() -> None:
    """Strictly: a key that the schema does not know is a mistake, too."""
    import kubernetes_validate
    from kubernetes_validate.utils import all_versions

    *_, latest = versions = all_versions()
    for document in kubernetes().values():
        for each in versions:
            kubernetes_validate.validate(document, each, strict=True)
        wrong = copy.deepcopy(document)
        wrong["spec"]["replica"] = 1
        with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
            kubernetes_validate.validate(wrong, latest, strict=True)


# What they name


STAGES = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
ARGUMENTS = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.M))


def volumes_of_the_image() -> set[str]:
    (said,) = re.findall(r"^VOLUME (.*)$", DOCKERFILE, re.M)
    return set(json.loads(said))


def settings_of(arguments: list[str], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What `streambed serve` makes of these, all of which it must know."""
    for name, value in environment.items():
        assert name.removeprefix("STREAMBED_").lower() in Settings.__dataclass_fields__, name
        monkeypatch.setenv(name, value)
    with serve.make_context("serve", list(arguments)) as context:
        return Settings(**{name: context.params[name] for name in Settings.__dataclass_fields__})


def entry_point() -> list[str]:
    """Flags that are in the image."""
    *_, last = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.M)
    program, command, *flags = json.loads(last)
    assert (program, command) == ("streambed", "serve")
    return list(flags)


def test_the_server_is_what_is_built_by_default() -> None:
    assert STAGES[-1] == "server"
    assert "client" in STAGES
    assert re.findall(r"^FROM (\S+) AS (?:build|run)$", DOCKERFILE, re.M) == ["${BASE}", "${BASE}"]


def test_image_has_the_versions_that_were_tested() -> None:
    """Torch's own index need not have the others, so it comes by its version alone."""
    # By the shell alone: a base need not have grep.
    version = '$(while read -r line; do case $line in torch==*) echo "$line" ;; esac; done < constraints.txt)'
    torch = f"""pip install ${{TORCH_INDEX:+--index-url "$TORCH_INDEX"}} "{version}\""""
    installing = [line for line in DOCKERFILE.splitlines() if "pip install" in line]
    assert [line for line in installing if " pip install --constraint constraints.txt " not in line] == [
        f"RUN --mount=type=secret,id=pip,target=/etc/pip.conf {torch}"
    ]


def test_every_installation_is_given_the_settings_of_pip() -> None:
    """By a mount: a file that is copied, or an argument, would stay in a layer or in what is said of it."""
    installing = [line for line in DOCKERFILE.splitlines() if "pip install" in line]
    assert len(installing) == 4
    assert all(
        line.startswith("RUN --mount=type=secret,id=pip,target=/etc/pip.conf pip install ") for line in installing
    )


def test_what_is_built_from_is_there() -> None:
    """And nothing else is sent to the builder."""
    listed = (ROOT / ".dockerignore").read_text().split()
    assert listed[0] == "*"
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M) for word in line.split()}
    assert {word.removeprefix("!") for word in listed if word.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_listens_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(entry_point(), {}, monkeypatch)
    assert settings.host == "0.0.0.0"
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.M) == [str(settings.port)]
    assert f"http://127.0.0.1:{settings.port}/readyz" in DOCKERFILE
    for name in re.findall(r"\b(STREAMBED_\w+)=", DOCKERFILE):
        assert name.removeprefix("STREAMBED_").lower() in Settings.__dataclass_fields__


def test_compose_files_are_there() -> None:
    services, volumes = compose()["services"], compose()["volumes"]
    for service in services.values():
        assert service["healthcheck"]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            there = (COMPOSE.parent / source).is_file() if source.startswith(".") else source in volumes
            assert there, mount
    (scraped,) = yaml.safe_load_all((COMPOSE.parent / "prometheus.yml").read_text())
    (targets,) = [config["static_configs"][0]["targets"] for config in scraped["scrape_configs"]]
    assert targets == [f"server:{compose_server()['STREAMBED_METRICS_PORT']}"]


def test_compose_asks_the_server_for_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    server = compose()["services"]["server"]
    build = server["build"]
    assert ((COMPOSE.parent / build["context"]) / "Dockerfile").is_file()
    assert build["target"] in STAGES
    assert build["args"].keys() <= ARGUMENTS
    settings = settings_of(entry_point(), compose_server(), monkeypatch)
    assert server["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]
    assert float(server["stop_grace_period"].removesuffix("s")) >= settings.drain + 20
    mounted = {mount.split(":")[1] for mount in server["volumes"]}
    assert mounted == volumes_of_the_image()
    assert str(Path(settings.journal or "").parent) in mounted
    assert server["read_only"] is True
    assert server["tmpfs"] == ["/tmp"]
    (command,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (.*)$", DOCKERFILE, re.M)
    assert server["healthcheck"]["test"] == ["CMD", *json.loads(command)]


def test_kubernetes_asks_the_server_for_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = pod()["containers"]
    arguments, environment = kubernetes_container()
    settings = settings_of([*entry_point(), *arguments], environment, monkeypatch)
    assert {each["name"] for each in container["env"]} >= {
        "STREAMBED_API_KEY",
        "STREAMBED_THREADS",
        "STREAMBED_KV_MEMORY",
    }
    assert pod()["enableServiceLinks"] is False, "a Service of our name would set STREAMBED_PORT to a URL"
    assert pod()["terminationGracePeriodSeconds"] >= settings.drain + 20, "time to close sockets and the journal"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.port, "metrics": settings.metrics_port}
    annotations = kubernetes()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.metrics_port)
    assert settings.metrics_host == "0.0.0.0"
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness", "startup")]
    assert [probe["path"] for probe in probes] == ["/livez", "/readyz", "/readyz"]
    assert {probe["port"] for probe in probes} == {"http"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod()["volumes"]}
    assert set(mounts.values()) == volumes_of_the_image() | {"/tmp"}
    assert str(Path(settings.journal or "").parent) in mounts.values()
    assert container["image"] == f"streambed:{version('streambed-embeddings')}"
    (user,) = {said for said in re.findall(r"^USER (.*)$", DOCKERFILE, re.M) if said != "root"}
    context = pod()["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_kubernetes_documents_name_each_other() -> None:
    documents = kubernetes()
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert documents["Service"]["spec"]["selector"].items() <= labels.items()
    assert documents["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"] for port in pod()["containers"][0]["ports"]}
    assert {port["targetPort"] for port in documents["Service"]["spec"]["ports"]} <= ports
    claims = {
        each["persistentVolumeClaim"]["claimName"] for each in pod()["volumes"] if "persistentVolumeClaim" in each
    }
    assert claims == {documents["PersistentVolumeClaim"]["metadata"]["name"]}
    (secret,) = [
        each["valueFrom"]["secretKeyRef"]
        for each in pod()["containers"][0]["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    ]
    made = f"kubectl create secret generic {secret['name']} --from-literal={secret['key']}="
    assert made in KUBERNETES.read_text()


def test_the_operations_page_builds_and_runs_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    section = page[page.index("## Containers") : page.index("## Kubernetes")]
    built = re.findall(r"^docker build (.*)$", section, re.M)
    assert len(built) >= 2
    for command in built:
        assert set(re.findall(r"--target (\S+)", command)) <= set(STAGES)
        assert set(re.findall(r"--build-arg (\w+)=", command)) <= ARGUMENTS
    tag = f"streambed:{version('streambed-embeddings')}"
    (run,) = re.findall(rf"^docker run .*{re.escape(tag)} (.*)$", section, re.M)
    settings_of([*entry_point(), *run.split()], {}, monkeypatch)
    for said in ("--read-only", "--tmpfs /tmp", "--secret id=pip", *sorted(volumes_of_the_image())):
        assert said in section
