"""TPAVI at the size of the published model, against the same module with an explicit attention matrix.

Forward and backward pass of one clip with 5 segments and 256 channels at each of the decoder's four scales. At 56 x 56
the matrix has 15,680 x 15,680 entries: 0.94 GiB, and the same for its gradient.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks.common import Comparison, Variant, compare
from stgcma.models.tpavi import TPAVI

SEGMENTS, CHANNELS, AUDIO_DIM = 5, 256, 128
SIDES = (56, 28, 14, 7)
TARGET = 2.0


class DirectTPAVI(TPAVI):
    """The published computation: products of all pairs of positions, divided by the number of positions."""

    def forward(self, maps: Tensor, audio: Tensor) -> Tensor:
        batch, channels = maps.shape[0], maps.shape[-1]
        positions = maps.reshape(batch, -1, channels)
        sound = self.align(audio)[:, :, None, None].expand_as(maps).reshape(batch, -1, channels)
        attention = self.query(positions) @ self.key(sound).transpose(1, 2) / positions.shape[1]
        message = self.out(attention @ self.value(positions))
        message = self.out_norm(message.reshape(-1, channels)).view_as(maps)
        return self.norm(maps + message)


def run(rounds: int = 3, side: int = SIDES[0]) -> Comparison:
    """Compare both modules at one scale of ``side x side`` positions."""
    torch.manual_seed(0)
    collapsed = TPAVI(CHANNELS, AUDIO_DIM)
    torch.nn.init.ones_(collapsed.out_norm.weight)
    direct = DirectTPAVI(CHANNELS, AUDIO_DIM)
    direct.load_state_dict(collapsed.state_dict())
    maps = torch.randn(1, SEGMENTS, side, side, CHANNELS, requires_grad=True)
    audio = torch.randn(1, SEGMENTS, AUDIO_DIM, requires_grad=True)
    cotangent = torch.randn_like(maps)

    def step(module: TPAVI) -> dict[str, Tensor]:
        output = module(maps, audio)
        names, inputs = zip(*module.named_parameters(), strict=True)
        gradients = torch.autograd.grad((output * cotangent).sum(), [maps, audio, *inputs])
        return {"output": output.detach(), **dict(zip(("maps", "audio", *names), gradients, strict=True))}

    def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
        # In training, the batch norm removes a bias before it, so the gradient of that bias is rounding error.
        shared = [name for name in theirs if name not in ("query.bias", "out.bias")]
        worst = max(((ours[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in shared)
        if worst > 1e-4:
            raise AssertionError(f"the two forms differ by {worst:.1e} (relative L2)")
        return f"output and all gradients equal to {worst:.0e}"

    return compare(
        title=f"TPAVI at {side} x {side}, forward + backward, {SEGMENTS} segments, {CHANNELS} channels, fp32",
        variants=[
            Variant("collapsed over space", lambda: step(collapsed)),
            Variant("attention written out", lambda: step(direct), target=TARGET if side == SIDES[0] else None),
        ],
        rounds=rounds,
        check=equal,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, choices=SIDES, action="append", help="one scale; repeat for several")
    for side in parser.parse_args().side or SIDES:
        print(run(side=side).table())
