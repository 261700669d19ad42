from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from saliency_lab.errors import UserError
from saliency_lab.models.construction import built_network
from saliency_lab.models.network import Normalize, network

# One of each family that people train: residual, plain, dense, mobile, ConvNeXt, transformer,
# windowed transformer, mixer.
FAMILIES = [
    "basic_cnn",
    "resnet10t",
    "densenet121",
    "mobilenetv3_small_050",
    "efficientnet_b0",
    "convnext_atto",
    "regnetx_002",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
]


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """The weights of a ResNet with 1,000 classes, as a state dict."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet10t.pt"
    torch.save(timm.create_model("resnet10t").state_dict(), path)
    return str(path)


def trained(net: nn.Module) -> list[str]:
    return [name for name, p in net.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_images_of_another_size(name):
    side = 64
    component = {"_target_": "saliency_lab.models.network.network", "name": name}
    net = built_network(component, 5, (3, side, side)).eval()
    with torch.no_grad():
        assert net(torch.rand(2, 3, side, side)).shape == (2, 5)
    assert len(trained(net)) == len(list(net.parameters()))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet18", 11_181_642), ("convnext_tiny", 27_827_818), ("vgg16", 134_301_514)],
)
def test_parameters_of_the_papers_networks(name, parameters):
    with torch.device("meta"):  # no memory, no initialisation
        net = network(name, 10)
        assert sum(p.numel() for p in net.parameters()) == parameters
        head = network(name, 10, train="head")
    width = {"resnet18": 512, "convnext_tiny": 768, "vgg16": 4096}[name]
    assert sum(p.numel() for p in head.parameters() if p.requires_grad) == 10 * width + 10


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "convnext_atto"])
def test_only_the_head_is_trained(name):
    net = network(name, 4, train="head")
    head = net.backbone.get_classifier()
    assert {id(p) for p in net.parameters() if p.requires_grad} == {
        id(p) for p in head.parameters()
    }
    assert len(trained(net)) == 2


def test_both_heads_of_a_distilled_transformer_are_trained():
    net = network("deit_tiny_distilled_patch16_224", 4, train="head")
    assert trained(net) == [
        "backbone.head.weight",
        "backbone.head.bias",
        "backbone.head_dist.weight",
        "backbone.head_dist.bias",
    ]


def test_from_scratch_pixels_are_left_as_they_are():
    net = network("resnet10t", 4)
    assert isinstance(net.normalize, nn.Identity)
    images = torch.rand(2, 3, 32, 32)
    net.eval()
    assert torch.equal(net(images), net.backbone(images))


def test_with_weights_the_model_normalises_by_its_own_mean_and_std(weights_file):
    net = network("resnet10t", 4, weights=weights_file).eval()
    images = torch.rand(2, 3, 32, 32)
    mean = torch.tensor(timm.data.IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(timm.data.IMAGENET_DEFAULT_STD).view(1, 3, 1, 1)
    torch.testing.assert_close(net(images), net.backbone((images - mean) / std))
    # A transformer of another recipe has other numbers.
    vit = network("vit_tiny_patch16_224", 4, tag="augreg_in21k_ft_in1k", normalize="own")
    assert vit.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("normalize", "given", "expected"),
    [("none", True, nn.Identity), ("own", False, Normalize), ("auto", True, Normalize)],
)
def test_normalisation_can_be_overridden(normalize, given, expected, weights_file):
    weights = weights_file if given else None
    net = network("resnet10t", 4, weights=weights, normalize=normalize)
    assert type(net.normalize) is expected


def test_normalisation_of_other_channels_is_refused():
    with pytest.raises(UserError, match=r"model\.normalize=own.*2 channels"):
        network("resnet10t", 4, in_chans=2, normalize="own")


def test_frozen_batch_norms_stay_and_others_move(weights_file):
    images = torch.rand(4, 3, 32, 32)

    def statistics(net):
        return [m.running_mean.clone() for m in net.modules() if isinstance(m, nn.BatchNorm2d)]

    frozen = network("resnet10t", 4, weights=weights_file)
    updated = network("resnet10t", 4, weights=weights_file, freeze_bn=False)
    whole = network("resnet10t", 4, weights=weights_file, train="all")
    for net, moves in ((frozen, False), (updated, True), (whole, True)):
        before = statistics(net)
        net(images)  # as it comes from its constructor: Lightning does not call train()
        net.train()
        net(images)
        moved = [not torch.equal(a, b) for a, b in zip(before, statistics(net), strict=True)]
        assert all(moved) if moves else not any(moved)
    # What is frozen is told apart from evaluation: the head is in training mode.
    assert frozen.training
    assert frozen.backbone.get_classifier().training
    assert not frozen.eval().backbone.get_classifier().training


def test_on_logits_keeps_the_backbones_logits(weights_file):
    torch.manual_seed(0)
    net = network("resnet10t", 4, weights=weights_file, head="on_logits").eval()
    reference = timm.create_model("resnet10t").eval()
    reference.load_state_dict(torch.load(weights_file, weights_only=True))
    images = torch.rand(2, 3, 32, 32)
    logits = reference(net.normalize(images))
    assert logits.shape == (2, 1000)
    torch.testing.assert_close(net(images), F.linear(logits, net.head.weight, net.head.bias))
    assert trained(net) == ["head.weight", "head.bias"]


def last_norms(net: nn.Module) -> list[torch.Tensor]:
    """Weights of the last batch norm of each basic block, by timm's and torchvision's name."""
    return [block.bn2.weight for block in net.modules() if hasattr(block, "bn2")]


def test_from_scratch_on_logits_is_torchvisions_network_with_a_layer_on_top():
    torch.manual_seed(0)
    net = network("resnet18", 10, head="on_logits", zero_init_last=False)
    reference = nn.Sequential(torchvision.models.resnet18(), nn.Linear(1000, 10))
    assert type(net.normalize) is nn.Identity
    assert len(trained(net)) == len(list(net.parameters()))  # nothing is frozen
    mine, its = list(net.parameters()), list(reference.parameters())
    assert [p.shape for p in mine] == [p.shape for p in its]
    assert sum(p.numel() for p in mine) == 11_689_512 + 10_010
    for a, b in zip(mine, its, strict=True):
        if a.numel() > 5000:  # drawn: the same spread and centre, to sampling error
            assert a.std().item() == pytest.approx(b.std().item(), rel=0.05)
            assert abs(a.mean().item()) < 5 * b.std().item() / a.numel() ** 0.5
        elif a.ndim == 1 and len(a) not in (10, 1000):  # a batch norm's weight or bias
            assert torch.equal(a, b)
    assert len(last_norms(net)) == 8
    # With the same numbers it is the same function.
    names = list(net.state_dict())
    net.load_state_dict(dict(zip(names, reference.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(net.eval()(images), reference.eval()(images))


@pytest.mark.parametrize(("zero", "start"), [(None, 0), (True, 0), (False, 1)])
def test_where_the_last_batch_norms_start(zero, start):
    net = network("resnet18", 10, zero_init_last=zero)
    assert all(torch.all(weight == start) for weight in last_norms(net))


@pytest.mark.parametrize("name", ["basic_cnn", "convnext_atto", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("value", [True, False])
def test_a_network_without_that_choice_refuses_it(name, value):
    with pytest.raises(UserError, match=rf"`model\.zero_init_last`.*'{name}' does not; leave it"):
        network(name, 4, zero_init_last=value)


def test_arguments_of_the_architectures_own_reach_it():
    with torch.device("meta"):
        narrow = network("vgg16", 2, arguments={"mlp_ratio": 0.125})
        vit = network(
            "vit_tiny_patch16_224", 10, image_size=(32, 32), arguments={"patch_size": 4, "depth": 2}
        )
    assert narrow.backbone.pre_logits.fc1.weight.shape[0] == 512
    assert vit.backbone.pos_embed.shape == (1, 65, 192)
    assert len(vit.backbone.blocks) == 2


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "basic_cnn"])
def test_arguments_that_the_architecture_does_not_take_are_refused(name):
    with pytest.raises(UserError, match=rf"`model.arguments`.*'{name}', but got 'colour'"):
        network(name, 4, arguments={"colour": 3})
    with pytest.raises(UserError, match="got 'num_classes', which this program sets itself"):
        network(name, 4, arguments={"num_classes": 3})


@pytest.mark.parametrize("name", ["convnext_atto", "vgg11", "basic_cnn"])
def test_on_logits_from_scratch_works_for_any_network(name):
    with torch.device("meta"):
        net = network(name, 7, head="on_logits")
    assert tuple(net.head.weight.shape) == (7, 1000)
    assert len(trained(net)) == len(list(net.parameters()))


def test_a_network_without_logits_of_its_own_has_none_to_keep():
    with (
        torch.device("meta"),
        pytest.raises(UserError, match="own logits, but 'vit_small_patch14_dinov2' has none"),
    ):
        network("vit_small_patch14_dinov2", 7, head="on_logits")


def test_structure_without_weights_is_the_same(weights_file):
    for settings in ({"head": "on_logits"}, {}, {"train": "all"}, {"normalize": "none"}):
        full = network("resnet10t", 4, weights=weights_file, **settings)
        empty = network("resnet10t", 4, weights="gone.pt", load_weights=False, **settings)
        assert {n: t.shape for n, t in full.state_dict().items()} == {
            n: t.shape for n, t in empty.state_dict().items()
        }
        assert trained(full) == trained(empty)
        assert type(full.normalize) is type(empty.normalize)


def test_a_target_of_ones_own():
    component = {"_target_": "torchvision.models.resnet18", "name": "from torchvision"}
    net = built_network(component, 6, (3, 32, 32))
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 6)


@pytest.mark.parametrize(
    ("component", "shape", "pieces"),
    [
        ({"_target_": "builtins.dict"}, (3, 32, 32), "named parameters, but got <class 'dict'>"),
        ({"_target_": "math.pi"}, (3, 32, 32), "named parameters, but got 3.14"),
        ({"_target_": "argparse.Namespace"}, (3, 32, 32), "module, but got Namespace"),
        ({"_target_": "torch.nn.Identity"}, (3, 8, 8), r"logits of shape \(1, 5\)"),
        ({"name": "levit_128"}, (3, 40, 40), "40×40|3×40×40"),
    ],
)
def test_what_is_no_classifier_of_these_images_is_refused(component, shape, pieces):
    component = {"_target_": "saliency_lab.models.network.network", **component}
    with pytest.raises(UserError, match=pieces):
        built_network(component, 5, shape)


def test_trying_a_network_leaves_it_as_it_was():
    component = {"_target_": "saliency_lab.models.network.network", "name": "resnet10t"}
    torch.manual_seed(3)
    net = built_network(component, 5, (3, 32, 32))
    torch.manual_seed(3)
    untried = network("resnet10t", 5)
    assert net.training
    for (name, one), other in zip(
        net.state_dict().items(), untried.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


class FrozenNorm(nn.Sequential):
    """Built with a batch norm in eval mode."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, num_classes))
        self[0].eval()


def test_trying_a_network_keeps_the_mode_of_each_layer():
    net = built_network({"_target_": f"{__name__}.FrozenNorm"}, 5, (3, 4, 4))
    assert [module.training for module in net.modules()] == [True, False, True, True]
