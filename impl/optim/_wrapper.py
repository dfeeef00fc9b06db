"""An optimizer around another one: what Lookahead and SAM share.

Both sides have the same parameter groups, so that a schedule, a hand or a checkpoint that changes a setting of one
changes it for both. What the wrapper remembers of a parameter stays out of the base's state: an optimizer that finds an
entry there takes the parameter for one that it has met before.
"""

from torch.optim import Optimizer


class _Wrapper(Optimizer):
    """An optimizer whose steps are those of `base_optimizer`, and what a subclass does around them.

    Args:
        base_optimizer: steps the parameters.
        settings: the wrapper's own settings of a group, where the group does not set them.
    """

    def __init__(self, base_optimizer: Optimizer, settings: dict):
        self.base_optimizer = base_optimizer
        super().__init__(base_optimizer.param_groups, base_optimizer.defaults | settings)
        self.param_groups = base_optimizer.param_groups  # the list itself

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; what `param_group` does not set comes from the constructors."""
        self._check(self.defaults | param_group)
        # While the wrapper is built, the base has the group already.
        if all(group is not param_group for group in self.base_optimizer.param_groups):
            self.base_optimizer.add_param_group(param_group)
        for name, value in self.defaults.items():
            param_group.setdefault(name, value)

    def state_dict(self) -> dict:
        """The base's state dict, and what the wrapper itself remembers of each parameter, in the groups' order."""
        own = [self.state.get(parameter, {}) for parameter in self._parameters()]
        return {"base_optimizer": self.base_optimizer.state_dict(), "state": [dict(entry) for entry in own]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on where `state_dict` was taken, in the middle of a cycle too; parameters keep device and dtype."""
        self.base_optimizer.load_state_dict(state_dict["base_optimizer"])
        self.param_groups = self.base_optimizer.param_groups  # loading made new ones
        for parameter, own in zip(self._parameters(), state_dict["state"], strict=True):
            self.state[parameter] = {name: value.to(parameter, copy=True) for name, value in own.items()}

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"base_optimizer": self.base_optimizer}  # for copies; Optimizer names its own

    def _parameters(self):
        return [parameter for group in self.param_groups for parameter in group["params"]]
