"""Every yaml of conf/: it composes, and its arguments fit the signature that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from saliency_lab.cli.places import register_resolvers
from saliency_lab.config.binding import bound_arguments
from saliency_lab.config.location import config_directory
from saliency_lab.config.schema import SCHEMAS, register_schemas

CONF = config_directory()


def _is_component(text: str) -> bool:
    """Whether a file describes a component: by itself, or built on another file of its group."""
    content = yaml.safe_load(text) or {}
    return "_target_" in content or ("defaults" in content and "@package" not in text)


COMPONENTS = sorted(
    path.relative_to(CONF).with_suffix("").as_posix()
    for path in CONF.glob("*/*.yaml")
    if _is_component(path.read_text(encoding="utf-8"))
)
EXPERIMENTS = sorted(
    path.relative_to(CONF / "experiment").with_suffix("").as_posix()
    for path in (CONF / "experiment").rglob("*.yaml")
)
# What the program passes by itself, per group.
GIVEN = {
    "model": ("num_classes", "in_chans", "image_size", "load_weights"),
    "optimizer": ("params",),
    "scheduler": ("optimizer", "max_epochs"),
    "trainer": ("directory", "callbacks", "loggers"),
    "method": ("model", "images", "targets", "generator"),
}
# What a person has to fill in.
OPEN = {"model/timm": ["model.name=resnet18"]}


@pytest.fixture(autouse=True)
def hydra():
    register_schemas()
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    HydraConfig.instance().cfg = None


def test_every_choice_is_looked_at():
    assert len(COMPONENTS) >= 43
    assert {"data/shapes", "method/lime", "optimizer/sgd", "trainer/ddp"} <= set(COMPONENTS)
    assert len(EXPERIMENTS) >= 7


def composed(task, *overrides):
    config = compose(task, overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    kept = [str(key) for key in config if key != "hydra"]
    return OmegaConf.to_container(OmegaConf.masked_copy(config, kept), resolve=True)


@pytest.mark.parametrize("path", COMPONENTS)
def test_arguments_fit_the_signature(path):
    group, _, choice = path.partition("/")
    task = "train" if group in SCHEMAS["train"].__annotations__ or group == "data" else "evaluate"
    config = composed(task, f"{group}={choice}", *OPEN.get(path, ()))
    if group == "evaluator":  # several may be chosen, each in a section of its own
        config = config["evaluator"]
        group = choice
    bound_arguments(config[group], group, GIVEN.get(group, ()))


def test_all_groups_have_components():
    groups = {path.partition("/")[0] for path in COMPONENTS}
    assert groups >= {"data", "model", "optimizer", "scheduler", "trainer", "logger", "method"}
    assert {"model/resnet18", "trainer/ddp", "callback/early_stopping"} <= set(COMPONENTS)


@pytest.mark.parametrize("task", SCHEMAS)
def test_every_task_composes_with_the_schema(task):
    assert composed(task)["task"] == task


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_says_how_to_run_it(name):
    text = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("#")
    assert "python -m saliency_lab" in text
    if "hydra/launcher" in text or "hydra/sweeper" in text:
        return  # it is for sweeps, and may not be installed
    for task in ("train", "evaluate"):
        assert composed(task, f"experiment={name}")["task"] == task


def test_components_say_what_they_are():
    for path in CONF.glob("*/*.yaml"):
        assert path.read_text(encoding="utf-8").startswith("#"), path


def test_the_papers_defaults():
    config = composed("train")
    assert config["seed"] == 42
    assert config["trainer"]["max_epochs"] == 50
    assert config["data"]["batch_size"] == 128
    assert config["data"]["augment"] == "none"
    assert config["optimizer"]["lr"] == 1e-3
    assert config["optimizer"]["_target_"].endswith("adamw")
    assert config["scheduler"]["_target_"].endswith("constant")


def test_what_a_file_changes_of_the_one_it_builds_on():
    auto = composed("train")["trainer"]
    changes = {
        "cpu": {"accelerator": "cpu"},
        "gpu": {"accelerator": "gpu"},
        "ddp": {"devices": 2, "strategy": "ddp"},
    }
    for name, changed in changes.items():
        assert composed("train", f"trainer={name}")["trainer"] == {**auto, **changed}
    model = composed("train")["model"]
    names = {"resnet18": "resnet18", "vgg16": "vgg16", "convnext": "convnext_tiny"}
    for choice, name in names.items():
        found = composed("train", f"model={choice}")["model"]
        assert found == {**model, "name": name, "tag": found["tag"]}
        assert found["tag"] in ("tv_in1k", "fb_in1k")


@pytest.mark.parametrize("task", ["train", "evaluate", "explain"])
def test_a_trial_is_one_batch_in_a_directory_of_its_own(task):
    config = composed(task, "trainer=debug", "data.batch_size=16")
    assert config["output_root"] == "outputs/debug"
    assert config["overwrite"] is True
    assert config["data"]["limit"] == 16
    assert config["trainer"]["max_epochs"] == 1
    assert config["logger"]["mode"] == "disabled"
    assert composed(task, "trainer=debug", "logger=wandb")["logger"]["mode"] == "auto"


def test_the_package_finds_the_same_directory():
    assert Path(__file__).parents[2] / "conf" == CONF
