"""The feed-forward layer: an MLP, or a mixture of experts."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from engine.arch.feed_forward_spec import DenseMlp, FeedForward, MoE, UngatedMlp
from engine.checkpoint.matrix import stacked
from engine.model.layer_weights import LayerWeights
from engine.model.router import Router
from engine.model.sparse_gate import SparseGate
from kernels.activation.reference import Xielu, activation
from kernels.experts.reference import Expert
from kernels.operations import ExpertsKernel
from kernels.rms_norm.reference import rms_norm

__all__ = ["feed_forward"]

XIELU = ("act_fn.alpha_p", 0.8), ("act_fn.alpha_n", 0.8), ("act_fn.beta", 0.5), ("act_fn.eps", -1e-6)
SHARED = "mlp.shared_experts", "mlp.shared_expert"  # an MLP for every token, beside experts or without


def feed_forward(spec: FeedForward, layer: LayerWeights) -> Callable[[Tensor], Tensor]:
    """[T, M] -> [T, M], all-reduced: each rank has a shard of the inner dimensions, of every expert too."""
    if not isinstance(spec, MoE):
        return _reduced(_mlp(spec, layer, _name_of(layer, "mlp", *SHARED)), layer)
    return _normed_apart(spec, layer) if spec.norms_apart else _reduced(_experts(spec, layer), layer)


def _reduced(part: Callable[[Tensor], Tensor], layer: LayerWeights) -> Callable[[Tensor], Tensor]:
    return lambda x_TM: layer.tp.all_reduce(part(x_TM))


def _mlp(spec: DenseMlp | UngatedMlp, layer: LayerWeights, at: str) -> Callable[[Tensor], Tensor]:
    """This rank's part of the sum."""
    dim, tp = layer.arch.model_dim, layer.tp
    inner = spec.dim, tp.rows(spec.dim)
    down = layer.linears.row_parallel(f"{at}.down_proj", dim, spec.dim, tp.columns(spec.dim), spec.bias)
    if isinstance(spec, DenseMlp):
        gate_up = layer.linears.column_parallel({f"{at}.gate_proj": inner, f"{at}.up_proj": inner}, dim, spec.bias)
        if spec.sparsity:
            sparse = SparseGate(spec, layer)
            return lambda x_TM: down(layer.kernels.gated_activation(sparse(gate_up(x_TM)), spec.activation))
        return lambda x_TM: down(layer.kernels.gated_activation(gate_up(x_TM), spec.activation))
    up = layer.linears.column_parallel({f"{at}.up_proj": inner}, dim, spec.bias)
    xielu = _xielu(spec, layer, at) if spec.activation == "xielu" else None
    return lambda x_TM: down(activation(up(x_TM), spec.activation, xielu))


def _xielu(spec: UngatedMlp, layer: LayerWeights, at: str) -> Xielu:
    """The checkpoint has the alphas before softplus; beta may be a weight, too."""
    numbers = spec.xielu or [_number(layer, f"{at}.{name}", default) for name, default in XIELU]
    alpha_p, alpha_n, beta, eps = map(torch.tensor, numbers)
    softplus = torch.nn.functional.softplus
    return Xielu(softplus(alpha_p).item(), (beta + softplus(alpha_n)).item(), beta.item(), eps.item())


def _number(layer: LayerWeights, name: str, default: float) -> float:
    if not layer.weights.has(f"{layer.at}.{name}"):
        return default
    return layer.take(name, *layer.weights.shape(f"{layer.at}.{name}"), dtype=torch.float32).item()


def _experts(spec: MoE, layer: LayerWeights) -> Callable[[Tensor], Tensor]:
    """This rank's part of the sum, the shared expert's too."""
    router, experts, shared = Router(spec.router, layer), _routed(spec, layer), _shared(spec, layer)
    num_experts, num_zero = spec.router.num_experts, spec.router.num_zero_experts

    def compute(x_TM: Tensor) -> Tensor:
        ids_TK, weights_TK = router(x_TM)
        shared_TM = None if shared is None else shared(x_TM)
        if spec.router.scales_inputs:
            taken_TM = (x_TM.float() * weights_TK).to(x_TM.dtype)
            return experts(taken_TM, ids_TK, torch.ones_like(weights_TK), shared_TM)
        out_TM = experts(x_TM, ids_TK, weights_TK, shared_TM)
        if num_zero and layer.tp.rank == 0:
            share_T1 = weights_TK.masked_fill(ids_TK < num_experts, 0.0).sum(1, keepdim=True)
            out_TM = (out_TM.float() + x_TM.float() * share_T1).to(x_TM.dtype)
        return out_TM

    return compute


def _normed_apart(spec: MoE, layer: LayerWeights) -> Callable[[Tensor], Tensor]:
    """Of the residual stream itself: the router, the experts and the shared one have norms of their own."""
    router, experts, shared = Router(spec.router, layer), _routed(spec, layer), _shared(spec, layer)
    assert shared is not None
    at, dim, eps, tp = "feedforward_layernorm", layer.arch.model_dim, layer.arch.norm_eps, layer.tp
    before_shared_M, after_shared_M, before_M, after_M = (
        layer.take_norm(name, dim) for name in (f"pre_{at}", f"post_{at}_1", f"pre_{at}_2", f"post_{at}_2")
    )

    def compute(x_TM: Tensor) -> Tensor:
        shared_TM = tp.all_reduce(shared(rms_norm(x_TM, before_shared_M, eps)))
        routed_TM = tp.all_reduce(experts(rms_norm(x_TM, before_M, eps), *router(x_TM)))
        return rms_norm(shared_TM, after_shared_M, eps) + rms_norm(routed_TM, after_M, eps)

    return compute


def _routed(spec: MoE, layer: LayerWeights) -> ExpertsKernel:
    experts = layer.kernels.experts(_each(spec, layer), spec.activation)
    return _in_latents(spec, layer, experts) if spec.latent_dim else experts


def _in_latents(spec: MoE, layer: LayerWeights, experts: ExpertsKernel) -> ExpertsKernel:
    """Experts that take a projection of the input, and give one of the output."""
    dim, latent_dim, kernels = layer.arch.model_dim, spec.latent_dim, layer.kernels
    down = kernels.linear(layer.take("mlp.fc1_latent_proj.weight", latent_dim, dim))
    up = kernels.linear(layer.take("mlp.fc2_latent_proj.weight", dim, latent_dim))

    def compute(x_TM: Tensor, ids_TK: Tensor, weights_TK: Tensor, added_TM: Tensor | None = None) -> Tensor:
        out_TM = up(experts(down(x_TM), ids_TK, weights_TK))
        return out_TM if added_TM is None else out_TM + added_TM

    return compute


def _shared(spec: MoE, layer: LayerWeights) -> Callable[[Tensor], Tensor] | None:
    """The shared expert, under its name of several families."""
    if spec.shared is None:
        return None
    at = _name_of(layer, *SHARED)
    mlp = _mlp(spec.shared, layer, at)
    if not spec.gates_shared:
        return mlp
    gate = layer.kernels.linear(layer.take(f"{at}_gate.weight", 1, layer.arch.model_dim), None, torch.float32)
    return lambda x_TM: (mlp(x_TM).float() * layer.kernels.unary(gate(x_TM), "sigmoid")).to(x_TM.dtype)


def _name_of(layer: LayerWeights, *names: str) -> str:
    """The one that the layer has an MLP under; the first one if it has none."""
    return next((name for name in names if layer.weights.has(f"{layer.at}.{name}.down_proj.weight")), names[0])


def _each(spec: MoE, layer: LayerWeights) -> Iterator[Expert]:
    weights, tp = layer.weights, layer.tp
    take = weights.take_matrix if layer.kernels.experts_keep_ints else weights.take
    dim, ffn_dim = spec.latent_dim or layer.arch.model_dim, spec.dim
    rows, columns = tp.rows(ffn_dim), tp.columns(ffn_dim)
    inner = ("up",) if spec.activation == "relu2" else ("gate", "up")
    for expert in range(spec.router.num_experts):
        name = f"{layer.at}.mlp.experts.{expert}"
        pair = [take(f"{name}.{which}_proj.weight", ffn_dim, dim, part=rows) for which in inner]
        gate_up, down = stacked(pair, weights.dtype), take(f"{name}.down_proj.weight", dim, ffn_dim, part=columns)
        if not spec.bias:
            yield Expert(gate_up, down)
            continue
        biases = [weights.take(f"{name}.{which}_proj.bias", ffn_dim, part=rows) for which in inner]
        down_bias_M = weights.take(f"{name}.down_proj.bias", dim)  # added by one rank
        if tp.rank != 0:
            down_bias_M = torch.zeros_like(down_bias_M)
        yield Expert(gate_up, down, torch.cat(biases), down_bias_M)
