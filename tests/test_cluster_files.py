"""The files of tuned_examples/cluster are what Ray, EC2, KubeRay and Kubernetes take."""

import copy
import json
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import kubernetes_validate
import pytest
import ray.autoscaler
import yaml
from botocore.exceptions import ParamValidationError
from botocore.validate import validate_parameters
from process_fixtures import REPOSITORY
from ray.autoscaler._private.util import prepare_config, validate_config

from mpdf_rllib.config_file import load_config

FOLDER = REPOSITORY / "tuned_examples" / "cluster"
CLUSTER, RAYJOB = FOLDER / "cluster.yaml", FOLDER / "rayjob.yaml"
INVALID = (jsonschema.ValidationError, kubernetes_validate.ValidationError, ParamValidationError)


def _fields(*required: str, **types: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": types, "required": [*required], "additionalProperties": False}


STRING, NUMBER, BOOLEAN = ({"type": name} for name in ("string", "number", "boolean"))
INTEGER = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
STRINGS = {"type": "object", "additionalProperties": STRING}
POD_TEMPLATE = {"type": "object"}
"""Checked by Kubernetes' own schema."""
_GROUP = {"rayStartParams": STRINGS, "template": POD_TEMPLATE}
RAYJOB_SCHEMA = _fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_fields("name", name=STRING, namespace=STRING, labels=STRINGS, annotations=STRINGS),
    spec=_fields(
        *("entrypoint", "rayClusterSpec"),  # of a job that makes a cluster of its own
        activeDeadlineSeconds=INTEGER,
        backoffLimit=INTEGER,
        entrypoint=STRING,
        entrypointNumCpus=NUMBER,
        entrypointNumGpus=NUMBER,
        entrypointResources=STRING,
        jobId=STRING,
        metadata=STRINGS,
        runtimeEnvYAML=STRING,
        shutdownAfterJobFinishes=BOOLEAN,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        submitterPodTemplate=POD_TEMPLATE,
        suspend=BOOLEAN,
        ttlSecondsAfterFinished=INTEGER,
        rayClusterSpec=_fields(
            "headGroupSpec",
            enableInTreeAutoscaling=BOOLEAN,
            rayVersion=STRING,
            headGroupSpec=_fields(*_GROUP, **_GROUP, serviceType=STRING),
            workerGroupSpecs={
                "type": "array",
                "items": _fields(
                    *("groupName", "minReplicas", "maxReplicas", *_GROUP),
                    **_GROUP,
                    groupName=STRING,
                    replicas=INTEGER,
                    minReplicas=INTEGER,
                    maxReplicas=INTEGER,
                    numOfHosts=INTEGER,
                ),
            },
        ),
    ),
)
"""Fields, types and what is required of KubeRay's API ray.io/v1, as far as a job like this one needs it."""


def check_cluster(cluster: dict[str, Any]) -> None:
    """Raises one of INVALID unless `ray up` takes the file, and EC2 the machines in it."""
    jsonschema.validate(cluster, json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text()))
    validate_config(prepare_config(copy.deepcopy(cluster)))
    ec2 = boto3.client("ec2", region_name=cluster["provider"]["region"])
    run_instances = ec2.meta.service_model.operation_model("RunInstances").input_shape
    for node in cluster["available_node_types"].values():
        validate_parameters({"MinCount": 1, "MaxCount": 1} | node["node_config"], run_instances)


def check_rayjob(job: dict[str, Any]) -> None:
    """Raises one of INVALID unless it is a RayJob whose pods Kubernetes takes."""
    jsonschema.validate(job, RAYJOB_SCHEMA)
    for template in pod_templates(job):
        pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pods"}, "template": template}
        kubernetes_validate.validate(pods, "1.34", strict=True)


def pod_templates(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for template in pod_templates(job) for container in template["spec"]["containers"]]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text())


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load(RAYJOB.read_text())


def test_both_files_are_valid(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    check_cluster(cluster)
    check_rayjob(job)


def _renamed(parent: dict[str, Any], old: str, new: str) -> None:
    parent[new] = parent.pop(old)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: _renamed(file, "max_workers", "max_worker"),
        lambda file: _renamed(file["available_node_types"]["head"], "resources", "resource"),
        lambda file: _renamed(file["available_node_types"]["head"]["node_config"], "InstanceType", "InstanceTyp"),
        lambda file: file.pop("cluster_name"),
        lambda file: file["available_node_types"]["gpu_worker"].pop("node_config"),
        lambda file: file.update(setup_commands="pip install ."),
        lambda file: file["available_node_types"]["gpu_worker"].update(min_workers="1"),
        lambda file: file["available_node_types"]["gpu_worker"]["node_config"].update(BlockDeviceMappings={}),
    ],
)
def test_damage_to_the_cluster_file_is_found_out(cluster: dict[str, Any], damage: Callable) -> None:
    damage(cluster)
    with pytest.raises(INVALID):
        check_cluster(cluster)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file["spec"].update(entrypointNumGPUs=1),
        lambda file: _renamed(file["spec"]["rayClusterSpec"], "workerGroupSpecs", "workerGroupSpec"),
        lambda file: _renamed(pod_templates(file)[1]["spec"], "volumes", "volume"),
        lambda file: _renamed(containers(file)[1], "volumeMounts", "volumeMount"),
        lambda file: file.pop("spec"),
        lambda file: file["spec"]["rayClusterSpec"].pop("headGroupSpec"),
        lambda file: file["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"),
        lambda file: pod_templates(file)[0]["spec"].pop("containers"),
        lambda file: file["spec"].update(entrypoint=["python", "-m", "mpdf_rllib.train"]),
        lambda file: file["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda file: file["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(replicas="2"),
        lambda file: containers(file)[0].update(volumeMounts={"name": "shared"}),
    ],
)
def test_damage_to_the_rayjob_is_found_out(job: dict[str, Any], damage: Callable) -> None:
    damage(job)
    with pytest.raises(INVALID):
        check_rayjob(job)


def test_both_files_have_the_version_of_ray_that_the_package_has(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (version,) = re.findall(r"ray\[\S*==([\d.]+)", " ".join(project["dependencies"]))
    image = f"rayproject/ray:{version}-py311-gpu"
    assert cluster["docker"]["image"] == image
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"FROM {image}" in RAYJOB.read_text()


def test_the_jobs_are_of_this_schema_and_leave_their_results_where_all_nodes_see_them(
    cluster: dict[str, Any], job: dict[str, Any]
) -> None:
    header = CLUSTER.read_text().partition("cluster_name:")[0].replace("\\\n#", "")
    (submitted,) = re.findall(r"ray job submit .* -- (.*)", header)
    shared = cluster["docker"]["run_options"][0].rpartition(":")[2]
    assert {mount["mountPath"] for pod in containers(job) for mount in pod["volumeMounts"]} == {shared}
    for command in (submitted, job["spec"]["entrypoint"]):
        python, module, name, option, file, *settings = shlex.split(command)
        assert [python, module, name, option] == ["python", "-m", "mpdf_rllib.train", "--config"]
        assert settings[::2] == ["--set"] * (len(settings) // 2)
        path = REPOSITORY / file.removeprefix("/home/ray/mpdf-rllib/")
        config = load_config(path, settings[1::2])
        assert config.run_path.is_relative_to(shared)
        assert config.recording_url.startswith("s3://")


def test_secrets_come_from_the_secret_alone(job: dict[str, Any]) -> None:
    text = RAYJOB.read_text()
    (secret,) = re.findall(r"kubectl create secret generic (\S+)", text)
    assert all(container["envFrom"] == [{"secretRef": {"name": secret}}] for container in containers(job))
    held = re.findall(r"--from-literal=(\w+)", text)
    assert {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} <= {*held}
    assert not {*held} & {variable["name"] for pod in containers(job) for variable in pod.get("env", [])}
