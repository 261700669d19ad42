"""AttnLRP and CP-LRP against the published rules, written out as relevances."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saliency_lab.attribution.core.completeness import completeness_error
from saliency_lab.attribution.methods.attn_lrp import attn_lrp
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.gradient_x_input import gradient_x_input
from saliency_lab.attribution.methods.libragrad import libragrad
from saliency_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")

RULES = ("attn_lrp", "cp_lrp")


class OneAttention(nn.Module):
    """Pixels as tokens of three numbers, one head, no biases, read at the first token."""

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = (nn.Parameter(torch.randn(3, 5) + 0.5) for _ in range(3))
        self.head = nn.Parameter(torch.randn(5, 4))
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        query, key, value = (tokens @ one for one in (self.query, self.key, self.value))
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.mT / 5**0.5).softmax(-1) @ value
        return mixed[:, 0] @ self.head


def _linear(x: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """LRP-0: R_j = Σ_k x_j w_jk / z_k R_k."""
    return x * ((relevance / (x @ weight)) @ weight.mT)


def _relevance_by_rules(model: OneAttention, x: Tensor, target: int, constant: bool) -> Tensor:
    """Achtibat et al. 2024, equations 8, 13 and 15, from the logit down to the tokens."""
    tokens = x.flatten(2).mT[0]
    query, key, value = (tokens @ one for one in (model.query, model.key, model.value))
    scores = query @ key.mT / 5**0.5
    weights = scores.softmax(-1)
    mixed = weights @ value
    logits = mixed[0] @ model.head
    arriving = torch.zeros_like(mixed)
    arriving[0] = mixed[0] * model.head[:, target] / logits[target] * logits[target]
    # A_ij V_jd of O_id, halved between the two, or all of it to the value.
    parts = weights[:, :, None] * value[None] / mixed[:, None] * arriving[:, None]
    if constant:
        return _linear(tokens, model.value, parts.sum(0))
    to_value, to_weights = parts.sum(0) / 2, parts.sum(2) / 2
    to_scores = scores * (to_weights - weights * to_weights.sum(1, keepdim=True))
    shares = query[:, None] * key[None] / (query @ key.mT)[:, :, None] * to_scores[:, :, None]
    return (
        _linear(tokens, model.value, to_value)
        + _linear(tokens, model.query, shares.sum(1) / 2)
        + _linear(tokens, model.key, shares.sum(0) / 2)
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rules", RULES)
def test_rules_of_one_attention(rules, fused):
    model = OneAttention(fused)
    images = torch.rand(1, 3, 2, 3, generator=torch.Generator().manual_seed(1)) + 0.1
    for target in range(4):
        with torch.no_grad():
            expected = _relevance_by_rules(model, images, target, rules == "cp_lrp")
        found = attn_lrp(model, images, attention=rules).of(torch.tensor([target]))
        assert torch.allclose(found.flatten(2).mT[0], expected)


def test_cp_lrp_conserves_an_attention_without_biases():
    model = OneAttention()
    images = torch.rand(2, 3, 2, 3, generator=torch.Generator().manual_seed(1))
    field = attn_lrp(model, images, attention="cp_lrp")
    assert completeness_error(field, torch.tensor([1, 3])).max() < 1e-12
    halved = attn_lrp(model, images)
    assert completeness_error(halved, torch.tensor([1, 3])).min() > 1e-6


@pytest.mark.parametrize("rules", RULES)
def test_a_linear_network_in_closed_form(rules, linear_net, images, classes):
    field = attn_lrp(linear_net, images, attention=rules)
    assert torch.allclose(field.of(classes), images * linear_net.weight[classes])
    assert torch.allclose(completeness_error(field, classes), linear_net.bias[classes].abs())


def test_a_relu_network_is_gradient_times_input(relu_net, images, classes):
    expected = gradient_x_input(relu_net, images).of(classes)
    assert torch.allclose(attn_lrp(relu_net, images).of(classes), expected)


class Steps(nn.Module):
    """One step between two linear maps, all without biases, so that relevance is conserved."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.step, self.last = nn.Linear(192, 12, False), step, nn.Linear(6, 4, False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.step(self.first(x.flatten(1)))[:, :6])


class Called(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


@pytest.mark.parametrize(
    "step",
    [
        nn.GELU(),
        nn.SiLU(inplace=True),
        nn.LayerNorm(12, eps=1e-12),
        nn.RMSNorm(12, eps=1e-12),
        nn.GroupNorm(3, 12, eps=1e-12),
        Called(lambda x: F.normalize(x, dim=1)),
        Called(lambda x: x / x.norm(dim=1, keepdim=True)),
        Called(lambda x: x * (x.square().mean(1, keepdim=True) + 1e-12).rsqrt()),
        Called(lambda x: x * torch.sigmoid(x.flip(1))),
        Called(lambda x: F.silu(x[:, :6]) * x[:, 6:]),
        Called(lambda x: x * x),
        Called(lambda x: x**2),
        Called(lambda x: x * (x.pow(2).mean(1, keepdim=True)) ** -0.5),
        Called(lambda x: torch.einsum("bi,bj->bij", x[:, :3], x[:, 3:5]).flatten(1)),
        Called(lambda x: torch.einsum("bi,bj->bij", [x[:, :3], x[:, 3:5]]).flatten(1)),
        Called(lambda x: torch.mul(x[:, :6], other=x[:, 6:])),
        Called(lambda x: F.gelu(input=x)),
        Called(lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True)),
        Called(lambda x: F.adaptive_avg_pool1d(x[:, None], 7)[:, 0]),
        Called(lambda x: F.unfold(x.view(-1, 1, 3, 4), 2, padding=1, stride=2).flatten(1)),
        Called(lambda x: x.unfold(1, 6, 2).flatten(1)[:, 3:]),
        Called(lambda x: x.view(-1, 3, 4).reshape_as(x)),
    ],
)
def test_relevance_is_kept(step, images, classes):
    field = attn_lrp(Steps(step), images)
    assert completeness_error(field, classes).max() < 1e-9
    assert field.of(classes).abs().max() > 1e-4


@pytest.mark.parametrize("source", [attn_lrp, libragrad])
def test_global_response_norm_however_its_norm_is_written(source, images, classes):
    """Hugging Face's ConvNeXtV2 takes `torch.linalg.vector_norm`, timm's `Tensor.norm`."""

    def response(norm):
        def call(x):
            length = norm(x)
            return 0.7 * (x * (length / (length.mean(1, keepdim=True) + 1e-6))).flatten(1)

        return nn.Sequential(nn.Unflatten(1, (3, 4)), Called(call))

    found, expected = (
        source(Steps(response(norm)), images).of(classes)
        for norm in (
            lambda x: torch.linalg.vector_norm(x, ord=2, dim=2, keepdim=True),
            lambda x: x.norm(p=2, dim=2, keepdim=True),
        )
    )
    assert expected.abs().max() > 1e-4
    assert torch.allclose(found, expected, rtol=1e-12)


def test_layer_norm_with_a_constant_deviation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 3))
    nn.init.normal_(model[1].weight)
    images = torch.rand(1, 3, 2, 2)
    flat = images.flatten()
    deviation = (flat.var(unbiased=False) + 1e-5).sqrt()
    slope = model[1].weight * model[2].weight[2] / deviation
    expected = flat * (slope - slope.mean())
    found = attn_lrp(model, images).of(torch.tensor([2]))
    assert torch.allclose(found.flatten(), expected)


def _transformer(name: str, **settings) -> nn.Module:
    torch.manual_seed(0)
    gated = settings.pop("gated", False)
    model = timm.create_model(name, num_classes=4, img_size=32, **settings)
    for block in model.blocks if gated else ():
        block.attn.gate = nn.Linear(24, 24)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.2)
    return model.eval()


TINY = {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
TRANSFORMERS = {
    "qk_norm, registers": ("vit_tiny_patch16_224", {**TINY, "qk_norm": True, "reg_tokens": 2}),
    "gates": ("deit3_small_patch16_224", {**TINY, "gated": True}),
    "relative bias": ("beit_base_patch16_224", TINY),
    "rotary, gated unit": ("eva02_tiny_patch14_224", TINY),
    "windows": (
        "swin_tiny_patch4_window7_224",
        {"window_size": 4, "embed_dim": 12, "depths": (1, 2), "num_heads": (2, 2)},
    ),
}


@pytest.mark.parametrize("kind", TRANSFORMERS)
@pytest.mark.parametrize("rules", RULES)
def test_fused_attention_makes_no_difference(rules, kind):
    name, settings = TRANSFORMERS[kind]
    model = _transformer(name, **settings)
    images, targets = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    for switch, copied in ((True, one), (False, other)):
        for module in copied.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = switch
    field = attn_lrp(one, images, attention=rules)
    assert torch.allclose(field.logits, model(images))
    found, expected = field.of(targets), attn_lrp(other, images, attention=rules).of(targets)
    assert torch.allclose(found, expected, atol=1e-12 + 1e-9 * float(expected.abs().max()))


def test_libragrad_times_the_input_is_cp_lrp():
    model = _transformer("vit_tiny_patch16_224", **TINY)
    pixels, targets = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    expected = attn_lrp(model, pixels, attention="cp_lrp").of(targets)
    assert torch.allclose(pixels * libragrad(model, pixels).of(targets), expected)
    assert not torch.allclose(
        libragrad(model, pixels).of(targets), gradient(model, pixels).of(targets)
    )


def test_what_has_no_rule_is_refused(images):
    for call, name in ((torch.exp, "exp"), (lambda x: 1 / x, "__rdiv__"), (F.softplus, "softplus")):
        with pytest.raises(UserError, match=f"got {name}, for which attn_lrp has none"):
            attn_lrp(Steps(Called(call)), images)


class LearnedAttention(nn.Module):
    """Attention in which some of query, key and value are learned: the rest is of the tokens.

    Ways to compute it: "fused", "multi_head" (torch's own MultiheadAttention) or "open".
    """

    def __init__(self, learned: str, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.constants = nn.ParameterDict({name: torch.randn(1, 4, 8) for name in learned})
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        given = [
            self.constants[name].expand(len(x), -1, -1) if name in self.constants else tokens
            for name in "qkv"
        ]
        if self.way == "multi_head":
            return self.head(self.attention(*given, need_weights=False)[0].sum(1))
        weights, biases = (
            p.chunk(3) for p in (self.attention.in_proj_weight, self.attention.in_proj_bias)
        )
        query, key, value = (
            F.linear(one, weight, bias).unflatten(-1, (2, 4)).transpose(1, 2)
            for one, weight, bias in zip(given, weights, biases, strict=True)
        )
        if self.way == "fused":
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.mT / 2).softmax(-1) @ value
        return self.head(self.attention.out_proj(mixed.transpose(1, 2).flatten(2)).sum(1))


@pytest.mark.parametrize("way", ["fused", "multi_head"])
@pytest.mark.parametrize(
    ("rules", "learned"),
    [
        # Constant attention weights and learned values would leave no way back to the pixels.
        *(("cp_lrp", learned) for learned in ("", "q", "k", "qk")),
        *(("attn_lrp", learned) for learned in ("", "q", "k", "v", "qk", "qv", "kv")),
    ],
)
def test_only_what_depends_on_the_input_shares_relevance(rules, learned, way):
    images, targets = torch.rand(2, 3, 8, 8), torch.tensor([1, 2])
    one, other = (LearnedAttention(learned, how).eval() for how in (way, "open"))
    assert torch.allclose(one(images), other(images))
    found, expected = (attn_lrp(m, images, attention=rules).of(targets) for m in (one, other))
    assert torch.allclose(found, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
    assert expected.std() > 0


def test_a_learned_query_leaves_all_of_the_scores_relevance_to_the_keys():
    """By hand, from the logit down to the tokens."""
    torch.manual_seed(0)
    query, head = torch.randn(1, 1, 5), torch.randn(5, 4)
    to_key, to_value = torch.randn(3, 5) + 0.5, torch.randn(3, 5) + 0.5

    class Pool(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).mT
            asked = query.expand(len(x), -1, -1)
            mixed = F.scaled_dot_product_attention(asked, tokens @ to_key, tokens @ to_value)
            return mixed[:, 0] @ head

    images = torch.rand(1, 3, 2, 3) + 0.1
    tokens = images.flatten(2).mT[0]
    key, value = tokens @ to_key, tokens @ to_value
    scores = (query[0] @ key.mT / 5**0.5)[0]
    weights = scores.softmax(0)
    arriving = weights @ value * head[:, 2]
    parts = weights[:, None] * value / (weights @ value) * arriving
    halves = parts.sum(1) / 2
    to_scores = scores * (halves - weights * halves.sum())
    to_keys = query[0] * key / (key @ query[0, 0])[:, None] * to_scores[:, None]
    expected = _linear(tokens, to_value, parts / 2) + _linear(tokens, to_key, to_keys)
    found = attn_lrp(Pool(), images).of(torch.tensor([2]))
    assert torch.allclose(found.flatten(2).mT[0], expected, rtol=1e-9)
