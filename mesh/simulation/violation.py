"""Pure. How an oracle says no."""


class Violation(AssertionError):
    """An invariant is broken."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant
        self.text = text


def require(truth: object, invariant: str, text: str) -> None:
    """Raise if it is not so."""
    if not truth:
        raise Violation(invariant, text)
