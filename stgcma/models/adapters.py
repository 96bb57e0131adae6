"""Adapters and the cross-attention between them: Eq. 1-5 of the paper (method section 1).

Shapes: ``G`` independent groups (a frame or a window of a frame), ``N`` tokens, ``D`` width, ``R`` bottleneck width,
``S`` segments.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgcma.config import BRANCHES, Branch
from stgcma.models.containers import TypedModuleDict

Tokens = dict[Branch, Tensor]
"""One tensor per running branch."""

Fusion = Literal["both", "audio_to_visual", "visual_to_audio", "none"]
"""Direction of the messages between the branches."""

SMALL_GROUP = 2**17
"""Largest ``Nq * Nc`` for which a CPU computes the attention matrix explicitly."""


class TrainableModule(nn.Module):
    """A module whose parameters are trained. All other parameters are frozen, unless the backbone releases them.

    The name of a parameter plays no role: a layer of the backbone called "adapter" remains frozen.
    """

    role: str = "task_head"
    """Line of the parameter count to which the parameters belong."""


class BottleneckAdapter(TrainableModule):
    """``up(gelu(down(x)))``; the caller adds the residual (T-Adapter, Eq. 6-7; method section 1.1).

    ``up`` starts at zero, so a new adapter returns zero.

    Args:
        width: ``D``.
        hidden_dim: ``R``.
        role: Line of the parameter count, e.g. ``temporal_adapter_visual``.
    """

    def __init__(self, width: int, hidden_dim: int, role: str) -> None:
        super().__init__()
        self.role = role
        self.down = nn.Linear(width, hidden_dim)
        self.up = nn.Linear(hidden_dim, width)
        nn.init.trunc_normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def hidden(self, x: Tensor) -> Tensor:
        """``gelu(down(x))``, ``[..., D] -> [..., R]`` (Eq. 2)."""
        return F.gelu(self.down(x))

    def forward(self, x: Tensor) -> Tensor:
        """``up(gelu(down(x)))``, ``[..., D] -> [..., D]``."""
        return self.up(self.hidden(x))


class InteractionGates(TrainableModule):
    """alpha and beta of Eq. 3-4: two scalars per block, shared by its spatial and global stage. They start at 0."""

    role: str = "gates"

    def __init__(self) -> None:
        super().__init__()
        self.audio_to_visual = nn.Parameter(torch.zeros(1))
        """alpha; ``gate_v`` in the reference."""
        self.visual_to_audio = nn.Parameter(torch.zeros(1))
        """beta; ``gate_a`` in the reference."""


def cross_attend(query: Tensor, context: Tensor) -> Tensor:
    """Parameter-free attention of ``query`` over ``context`` (CAIM, Eq. 3-4).

    Computes ``softmax(query @ context^T) @ context``, without division by ``sqrt(R)``, as in the paper. Large groups
    (the first stage of Swin has 3136 tokens) use scaled-dot-product attention with scale 1, which never stores a
    matrix of ``Nq x Nc``. Small groups on a CPU use two matrix products: the fused kernel is not faster there, and its
    gradients are twice as far from float64.

    Args:
        query: Tokens that receive information, ``[G, Nq, R]``.
        context: Tokens that give it, ``[G, Nc, R]``.

    Returns:
        ``[G, Nq, R]``: for every query token, a convex combination of the context tokens.

    Raises:
        ValueError: If the two inputs differ in ``G`` or ``R``.
    """
    if query.shape[0] != context.shape[0] or query.shape[-1] != context.shape[-1]:
        raise ValueError(
            "cross_attend needs query and context with the same groups and bottleneck width, "
            f"got query {list(query.shape)} and context {list(context.shape)} as [G, N, R]. "
            "Both branches of one AVAdapter must share the bottleneck ratio and the number of segments."
        )
    if query.device.type == "cpu" and query.shape[1] * context.shape[1] <= SMALL_GROUP:
        return torch.softmax(query @ context.transpose(-2, -1), dim=-1) @ context
    keys = context.unsqueeze(1)
    return F.scaled_dot_product_attention(query.unsqueeze(1), keys, keys, scale=1.0).squeeze(1)


class AVAdapter(nn.Module):
    """AV-Adapter: one bottleneck adapter per branch, with cross-attention between their hidden features (Eq. 1-5).

    A branch without an adapter is returned unchanged. Without both adapters, or with ``fusion="none"``, there are no
    messages. Both messages are computed from the hidden features as they were before either update.

    Args:
        width: ``D``.
        hidden_dim: ``R``, the same for both branches.
        branches: Branches that have an adapter.
        fusion: Which messages are sent.
        stage: ``spatial`` or ``global``, for the parameter count.
    """

    receives: ClassVar[dict[Branch, Fusion]] = {"visual": "audio_to_visual", "audio": "visual_to_audio"}

    def __init__(self, width: int, hidden_dim: int, branches: Iterable[Branch], fusion: Fusion, stage: str) -> None:
        super().__init__()
        self.adapters: TypedModuleDict[BottleneckAdapter] = TypedModuleDict(
            {branch: BottleneckAdapter(width, hidden_dim, f"{stage}_adapter_{branch}") for branch in branches}
        )
        interacts = len(self.adapters) == 2
        self.receivers: tuple[Branch, ...] = tuple(
            branch for branch in BRANCHES if interacts and fusion in ("both", self.receives[branch])
        )

    def forward(self, x: Tokens, gates: InteractionGates | None) -> Tokens:
        """``{branch: [G, N, D]} -> {branch: [G, N, D]}``, skip connection included (Eq. 5).

        Args:
            x: Tokens of every running branch.
            gates: alpha and beta; not read if there are no messages.
        """
        hidden: Tokens = {branch: self.adapters[branch].hidden(x[branch]) for branch in x if branch in self.adapters}
        updated = dict(hidden)
        for branch in self.receivers:
            other: Branch = "audio" if branch == "visual" else "visual"
            gate = getattr(gates, self.receives[branch])
            updated[branch] = hidden[branch] + gate * cross_attend(hidden[branch], hidden[other])
        return {
            branch: value + self.adapters[branch].up(updated[branch]) if branch in updated else value
            for branch, value in x.items()
        }


class TemporalBias(TrainableModule):
    """Trained relative bias of the attention over time, one table per branch (Swin; method section 3.1).

    Entry ``i - j + S - 1`` is added to the logit of query segment ``i`` and key segment ``j``.
    """

    role: str = "temporal_rel_bias"

    def __init__(self, num_segments: int, num_heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(2 * num_segments - 1, num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.num_segments = num_segments

    def forward(self) -> Tensor:
        """The bias of all pairs of segments, ``[1, heads, S, S]``."""
        steps = torch.arange(self.num_segments, device=self.table.device)
        index = steps[:, None] - steps[None, :] + self.num_segments - 1
        return self.table[index].permute(2, 0, 1).unsqueeze(0)


class TemporalEmbedding(TrainableModule):
    """Trained embedding of the segments, one table per branch that starts at zero (CLIP; method section 2.1)."""

    role: str = "temporal_embedding"

    def __init__(self, num_segments: int, width: int, branches: Iterable[Branch]) -> None:
        super().__init__()
        for branch in branches:
            self.register_parameter(branch, nn.Parameter(torch.zeros(1, num_segments, width)))

    def forward(self, branch: Branch) -> Tensor:
        """The table of one branch, ``[1, S, D]``."""
        return self.get_parameter(branch)


class OutputNorm(TrainableModule):
    """The final LayerNorm of CLIP, shared by both branches and trained (method section 2.3)."""

    role: str = "ln_post"

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)
