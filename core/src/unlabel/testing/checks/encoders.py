"""What an encoder promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlabel.testing.checks.promise import NotApplicable, Violation, of

if TYPE_CHECKING:
    from unlabel.testing.trials import EncoderTrial


@of("encoders", costly=True)
def makes_its_dim(encoder: EncoderTrial) -> None:
    """It is a module that says in `.dim` how many numbers a sample gets, and gives as many.

    Heads, probes and evaluations are built from `.dim`.
    """
    if encoder.other_than_module():
        raise Violation(f"{encoder.offer.target} makes a {encoder.other_than_module()}: a torch module is expected")
    width = getattr(encoder.encoder, "dim", None)
    if not isinstance(width, int) or width < 1:
        raise Violation(f"the encoder's `.dim` is {width!r}: the width of its features is expected, a positive integer")
    made = encoder.output()
    if made is None:
        raise NotApplicable(f"`.dim` is {width}, but no tiny recipe uses it and it offers no example() to encode")
    if made.shape[-1] != width:
        raise Violation(f"the encoder returns shape {tuple(made.shape)}, but `.dim` is {width}: correct one of them")


@of("encoders", costly=True)
def loads_elsewhere(encoder: EncoderTrial) -> None:
    """An export's own snippet loads the weights in a fresh interpreter, without `unlabel`, with the same features."""
    encoder.check_elsewhere()
