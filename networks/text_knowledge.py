"""What text says about each modality: token sequences that travel with the network."""

from jaxtyping import Bool, Float
from torch import Tensor, nn


class TextKnowledge(nn.Module):
    """A table of encoded descriptions, one a modality; nothing in it is learned.

    The tokens are the hidden states of a text encoder, not its pooled vector: attention to a single
    token is a constant (softmax over one is 1), so that a pooled vector could only shift features.
    The table is no part of the state dict. Its ``key`` goes into the network's contract instead,
    so that weights are refused with any text but the one they were trained with.

    Args:
        tokens: Hidden states, by modality in order.
        mask: True where a token belongs to the description, False where it is padding.
        key: Name of the content: same encoder, same weights and same prompts, same key.

    Raises:
        ValueError: Shapes disagree, or a modality has no token.
    """

    tokens: Tensor
    mask: Tensor

    def __init__(self, tokens: Float[Tensor, "m n d"], mask: Bool[Tensor, "m n"], key: str) -> None:
        super().__init__()
        if tokens.dim() != 3 or mask.shape != tokens.shape[:2]:
            raise ValueError(
                f"tokens must be (m, n, d) and mask (m, n), "
                f"got {tuple(tokens.shape)} and {tuple(mask.shape)}"
            )
        if not bool(mask.any(dim=1).all()):
            raise ValueError(f"every modality needs a token, got counts {mask.sum(dim=1).tolist()}")
        self.key = key
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    @property
    def channels(self) -> int:
        """Width of a token."""
        return self.tokens.shape[2]

    def forward(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The description of each sample's target.

        Args:
            target: Modality, (b,) int64.

        Returns:
            Tokens (b, n, d) and their mask (b, n).
        """
        return self.tokens[target], self.mask[target]
