from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from saliency_lab.errors import UserError
from saliency_lab.models.weights import load_backbone, read_file


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(5)
    return timm.create_model("resnet10t", num_classes=3).state_dict()


def saved(kind, state, path):
    if kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
        return path
    content = {
        "state dict": state,
        "under state_dict": {"state_dict": state, "epoch": 3},
        "under model": {"model": state, "args": "x"},
        "of data parallel": {f"module.{name}": tensor for name, tensor in state.items()},
        "checkpoint": {
            "state_dict": {
                **{f"network.backbone.{name}": tensor for name, tensor in state.items()},
                "network.normalize.mean": torch.zeros(1, 3, 1, 1),
            },
            "facts": {},
        },
    }[kind]
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "safetensors",
        "state dict",
        "under state_dict",
        "under model",
        "of data parallel",
        "checkpoint",
    ],
)
def test_every_kind_of_file(kind, state, tmp_path):
    model = timm.create_model("resnet10t", num_classes=3)
    load_backbone(model, saved(kind, state, tmp_path / "weights.pt"), new_head=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_a_head_of_other_classes_stays_new(state, tmp_path):
    path = saved("state dict", state, tmp_path / "weights.pt")
    model = timm.create_model("resnet10t", num_classes=7)
    head = model.get_classifier().weight.clone()
    load_backbone(model, path, new_head=True)
    assert torch.equal(model.get_classifier().weight, head)
    assert torch.equal(model.conv1[0].weight, state["conv1.0.weight"])
    with pytest.raises(UserError, match="misshapen"):
        load_backbone(model, path, new_head=False)


def test_weights_of_another_model(state, tmp_path):
    model = timm.create_model("resnet18", num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = saved("state dict", state, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"`model\.weights` to fit ResNet.*missing.*unknown"):
        load_backbone(model, path, new_head=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


class Code:
    def __reduce__(self):
        return (print, ("this ran",))


CONTENTS = {
    "empty": b"",
    "text": b"no weights at all\n",
    "zeros": bytes(1000),
    "pickle of nothing": b"\x80\x02.",
    "zip that is none": b"PK\x03\x04" + bytes(40),
    "random": bytes((7 * i * i + 3) % 251 for i in range(4000)),
    "csv": b"a,b\n1,2\n",
    "json": b'{"a": [1, 2, 3]}',
    "html": b"<html><body>404</body></html>",
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", CONTENTS)
def test_files_of_another_kind(name, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(CONTENTS[name])
    with pytest.raises(UserError, match=r"`model\.weights`.*weights\."):
        read_file(path, "model.weights")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "state dict"])
def test_truncated_files(kind, share, state, tmp_path):
    path = saved(kind, state, tmp_path / "weights.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="truncated"):
        read_file(path, "model.weights")


def test_no_code_in_a_file_is_run(tmp_path, capsys):
    torch.save({"weight": Code()}, tmp_path / "weights.pt")
    with pytest.raises(UserError):
        read_file(tmp_path / "weights.pt", "model.weights")
    assert "this ran" not in capsys.readouterr().out


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="there is none"):
        read_file(tmp_path, "ckpt")
