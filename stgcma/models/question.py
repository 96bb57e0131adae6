"""Question encoder of the question-answering head (method section 5, step 1).

Shapes: ``Q`` questions, ``L`` word positions, ``d`` working width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stgcma.errors import ShardMismatchError
from stgcma.models.adapters import TrainableModule

FORGET_BIAS = 3.0
INPUT_GAIN = 4.0


class QuestionEncoder(TrainableModule):
    """Words -> one vector: embedding, tanh, one LSTM layer, ``Linear(tanh(cat(h, c)))``.

    The LSTM runs over all ``L`` positions, padding included, and its last state is used, as published. The result
    therefore depends on the length of the padding.

    Args:
        num_words: Size of the question vocabulary; word 0 is the padding.
        dim: ``d``.
        init_std: Standard deviation of the initial output layer.
        remembers_words: Initialise the LSTM so that it keeps the words over the padding after them.
    """

    role: str = "avqa_head"

    def __init__(self, num_words: int, dim: int, init_std: float = 0.02, *, remembers_words: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_words, dim)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.project = nn.Linear(2 * dim, dim)
        nn.init.trunc_normal_(self.project.weight, std=init_std)
        nn.init.zeros_(self.project.bias)
        if remembers_words:
            self.remember_words()

    @torch.no_grad()
    def remember_words(self) -> None:
        """Zero the padding vector, open the forget gates to ``sigmoid(3)`` and scale the input weights by
        ``INPUT_GAIN``.

        With the initialisation of torch, the words of a question of five account for a hundredth of the variance of its
        vector.
        """
        self.embedding.weight[0].zero_()
        self.lstm.get_parameter("weight_ih_l0").mul_(INPUT_GAIN)
        self.lstm.get_parameter("bias_hh_l0").zero_()
        bias = self.lstm.get_parameter("bias_ih_l0").zero_()
        bias.view(4, -1)[1].fill_(FORGET_BIAS)  # gates: input, forget, cell, output

    def forward(self, questions: Tensor) -> Tensor:
        """Word ids ``[Q, L]`` int64 -> ``[Q, d]``."""
        words = torch.tanh(self.embedding(questions))
        _, (hidden, cell) = self.lstm(words)
        return self.project(torch.tanh(torch.cat([hidden[0], cell[0]], dim=-1)))

    def check_vocabulary(self, num_words: int) -> None:
        """Raise ``ShardMismatchError`` if the data has more words than the embedding."""
        if num_words > self.embedding.num_embeddings:
            raise ShardMismatchError(
                f"The question vocabulary of the data has {num_words} words, but the model embeds only "
                f"{self.embedding.num_embeddings}. Set model.answer_head.num_words: {num_words}."
            )
