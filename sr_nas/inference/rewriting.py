"""The graph of a network, rewritten for the layers of :mod:`sr_nas.inference.packed`."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sr_nas.inference.packed import Activation, Packed, PackedContrastAttention, PackedJoin, PackedSpatialAttention, is_packable
from sr_nas.ops.attention import ContrastAwareChannelAttention, EnhancedSpatialAttention

JOINED_FROM = 32
"""Channels from which a part of a concatenation is convolved by itself: narrower ones are sooner copied side by side."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = isinstance(m, (ContrastAwareChannelAttention, EnhancedSpatialAttention))
        return whole or super().is_leaf_module(m, module_qualified_name)


def traced(network: nn.Module) -> fx.GraphModule:
    """Return the graph of a network in eval mode, whose modules it shares; raises whatever tracing meets."""
    return fx.GraphModule(network, _Tracer().trace(network)).eval()


def rewrite(graph: fx.GraphModule) -> None:
    """Replace what is known there, in place. Nodes carry ``tensor_meta``, as ``ShapeProp`` notes it."""
    for node in list(graph.graph.nodes):
        module = _module(graph, node)
        if isinstance(module, EnhancedSpatialAttention):
            _put(graph, node, PackedSpatialAttention(module), node.args)
        elif isinstance(module, nn.Conv2d) and is_packable(module) and module.weight.dtype == torch.float32:
            _pack(graph, node, module)
    for node in list(graph.graph.nodes):
        if node.op == "placeholder":
            with graph.graph.inserting_after(node):
                turned = graph.graph.call_function(_channels_last, (node,))
            node.replace_all_uses_with(turned, delete_user_cb=lambda user, turned=turned: user is not turned)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()


def _pack(graph: fx.GraphModule, node: fx.Node, convolution: nn.Conv2d) -> None:
    source: Any = node.args[0]
    attention = _module(graph, source)
    shape = (convolution.kernel_size, convolution.stride, convolution.padding, convolution.groups)
    is_pointwise = shape == ((1, 1), (1, 1), (0, 0), 1)
    if is_pointwise and isinstance(attention, ContrastAwareChannelAttention) and _only_user(source) is node:
        other, end = _sum_behind(node)
        inputs = source.args if other is None else (*source.args, other)
        _put(graph, end, PackedContrastAttention(attention, convolution), inputs)
        return
    parts = _joined(source) if is_pointwise and _only_user(source) is node else None
    if parts is not None and min(parts.values()) >= JOINED_FROM:
        activation, end = _activation_behind(graph, node)
        _put(graph, end, PackedJoin(convolution, list(parts.values()), activation), tuple(parts))
        return
    other, end = _sum_behind(node)
    activation, end = _activation_behind(graph, end)
    _put(graph, end, Packed(convolution, activation), (source,) if other is None else (source, other))


def _put(graph: fx.GraphModule, node: fx.Node, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Let a module give what ``node`` did."""
    name = f"packed_{node.name}"
    graph.add_submodule(name, module)
    with graph.graph.inserting_before(node):
        new = graph.graph.call_module(name, inputs)
    new.meta = node.meta
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)


def _sum_behind(node: fx.Node) -> tuple[fx.Node | None, fx.Node]:
    """Return the other summand where the output is only used in a sum with one of its shape, and the last node taken in."""
    user = _only_user(node)
    if user is not None and user.op == "call_function" and user.target in (operator.add, torch.add) and not user.kwargs:
        other = user.args[1] if user.args[0] is node else user.args[0]
        if isinstance(other, fx.Node) and other is not node and _shape(other) == _shape(node) is not None:
            return other, user
    return None, node


def _activation_behind(graph: fx.GraphModule, node: fx.Node) -> tuple[Activation | None, fx.Node]:
    """Return the activation where the output is only used in one, and the last node taken in."""
    user = _only_user(node)
    if user is None:
        return None, node
    module = _module(graph, user)
    if isinstance(module, nn.ReLU) or (user.op == "call_function" and user.target in (F.relu, torch.relu)):
        return ("relu", None), user
    if isinstance(module, nn.Sigmoid) or (user.op == "call_function" and user.target is torch.sigmoid):
        return ("sigmoid", None), user
    if isinstance(module, nn.LeakyReLU):
        return ("leaky_relu", float(module.negative_slope)), user
    if user.op == "call_function" and user.target is F.leaky_relu:
        slope = user.args[1] if len(user.args) > 1 else user.kwargs.get("negative_slope", 0.01)
        return ("leaky_relu", float(slope)), user  # type: ignore[arg-type]
    return None, node


def _joined(node: fx.Node) -> dict[fx.Node, int] | None:
    """Return the parts of a concatenation of channels with their numbers of channels."""
    if node.op != "call_function" or node.target is not torch.cat or node.kwargs.get("dim", (*node.args, None)[1]) != 1:
        return None
    parts: Any = node.args[0]
    shapes = [_shape(part) for part in parts]
    if None in shapes or len(set(parts)) != len(parts):
        return None
    return {part: shape[1] for part, shape in zip(parts, shapes, strict=True)}  # type: ignore[index]


def _module(graph: fx.GraphModule, node: Any) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    meta: Any = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else None


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
