"""Load weights saved under other names: every key is met on both sides, or an error names it."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

Weights = Mapping[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


class Source(NamedTuple):
    """Where one of our tensors comes from: names in the checkpoint, and how they become one."""

    names: tuple[str, ...]
    combine: Callable[[list[Tensor]], Tensor] | None = None


def sources_by_layer(module: nn.Module, layers: Mapping[str, str]) -> dict[str, Source]:
    """Sources of all of a module's tensors whose layers are only renamed.

    Args:
        module: Gives our names, ``layer.weight`` and the like.
        layers: Our layer name to theirs; more than the module has is fine.
    """
    found = {}
    for name in module.state_dict():
        layer, _, leaf = name.rpartition(".")
        if layer in layers:
            found[name] = Source((f"{layers[layer]}.{leaf}",))
    return found


def load_from_sources(module: Module, weights: Weights, sources: Mapping[str, Source]) -> Module:
    """Load a module, in place, and set it to evaluation.

    Args:
        module: Every tensor of its state dict must have a source.
        weights: The checkpoint's tensors; not changed.
        sources: Our full name to where it comes from.

    Raises:
        ValueError: A checkpoint's key is not used, one is missing, or a shape differs.
    """
    used = {name for source in sources.values() for name in source.names}
    unmapped = [name for name in weights if name not in used]
    missing = [name for source in sources.values() for name in source.names if name not in weights]
    if unmapped or missing:
        raise ValueError(
            "the checkpoint does not fit the constructor arguments"
            + (f"; unmapped keys: {shorten(unmapped)}" if unmapped else "")
            + (f"; missing keys: {shorten(missing)}" if missing else "")
        )
    wanted = module.state_dict()
    ready, wrong = {}, []
    for ours, source in sources.items():
        tensors = [weights[name] for name in source.names]
        try:
            ready[ours] = source.combine(tensors) if source.combine else tensors[0]
        except RuntimeError:  # tensors to be joined that do not fit each other
            wrong.append(
                f"{', '.join(source.names)}: {[tuple(tensor.shape) for tensor in tensors]}"
            )
            continue
        if ready[ours].shape != wanted[ours].shape:
            shapes = tuple(ready[ours].shape), tuple(wanted[ours].shape)
            wrong.append(f"{source.names[0]}: {shapes[0]} instead of {shapes[1]}")
    if wrong:
        raise ValueError(f"shapes differ from the constructor arguments: {shorten(wrong)}")
    module.load_state_dict(ready)
    return module.eval()


def shorten(names: Iterable[str], limit: int = 8) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
