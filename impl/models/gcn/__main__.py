"""Names digits from ten labelled ones of each kind, along a graph of similar ones; draws the logits."""

from ...demonstration import name_digits_along_a_graph
from . import GCN


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.gcn`: arguments as those of `impl.demonstration.arguments`."""
    description = "A graph convolutional network on the graph of similar digits."
    name_digits_along_a_graph("gcn", description, lambda: GCN(64, 64, 10), given)


if __name__ == "__main__":
    main()
