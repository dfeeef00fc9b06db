"""A layer of the library that computes with parameters of our names."""

from torch import Tensor, nn
from torch.func import functional_call


class Sharing(nn.Module):
    """Holds the parameters under our names, and a layer of the library that is called with them in place of its own."""

    def hide(self, conv: nn.Module, **names: Tensor | None) -> None:
        """Takes the layer, which is no submodule, and its parameters under our names."""
        self.__dict__["conv"] = conv
        for name, parameter in names.items():
            self.register_parameter(name, None if parameter is None else nn.Parameter(parameter.detach().clone()))

    def run(self, state: dict[str, Tensor | None], *arguments, **options):
        """The library's output with that state."""
        self.conv.train(self.training)
        given = {name: value for name, value in state.items() if value is not None}
        return functional_call(self.conv, given, arguments, options)
