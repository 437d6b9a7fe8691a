"""A recurrent network over frames, with the voices of a frame in a chain: the yardstick RNN-NADE.

    h_t = LSTM(x_0 … x_{t-1}),   p(x_it | …) = softmax(W_i h_t + Σ_{j<i} E_ij[x_jt])

The voices follow each other from the first to the last. RNN-NADE (Boulanger-Lewandowski et al.
2012) is cited with its likelihoods in T. Cooijmans' thesis, table 3.1, and not described there;
this is the simplest network of its kind for four voices that each sing one pitch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrameNade(nn.Module):
    """Chronological conditionals of every note.

    Args:
        hidden: width of the LSTM.
        pitches: P.
        voices: I.
    """

    def __init__(self, hidden: int = 128, pitches: int = 46, voices: int = 4) -> None:
        super().__init__()
        self.pitches, self.voices = pitches, voices
        self.lstm = nn.LSTM(voices * pitches, hidden, batch_first=True)
        self.heads = nn.ModuleList(
            nn.Linear(hidden + voice * pitches, pitches) for voice in range(voices)
        )

    def forward(self, pitches: Tensor) -> Tensor:
        """Log-probabilities (B, I, T, P) of scores (B, I, T), given all that comes before."""
        past = self.past(pitches)
        return torch.stack([self.voice(past, pitches, i) for i in range(self.voices)], 1)

    def past(self, pitches: Tensor) -> Tensor:
        """What the frames before each frame leave behind, (B, T, hidden)."""
        frames = F.one_hot(pitches, self.pitches).transpose(1, 2).flatten(2)  # (B, T, I P)
        before = F.pad(frames, (0, 0, 1, 0))[:, :-1]  # before the first frame there is nothing
        return self.lstm(before.to(self.heads[0].weight.dtype))[0]  # type: ignore[arg-type]

    def voice(self, past: Tensor, pitches: Tensor, voice: int) -> Tensor:
        """Log-probabilities (B, T, P) of a voice given the past and the frame's earlier voices."""
        earlier = F.one_hot(pitches[:, :voice], self.pitches).transpose(1, 2).flatten(2)
        inputs = torch.cat((past, earlier.to(past.dtype)), -1) if voice else past
        return self.heads[voice](inputs).log_softmax(-1)
