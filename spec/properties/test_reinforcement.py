"""What the agents share: a memory of transitions, and a state that can be saved."""

import copy

import pytest
import torch
from hypothesis import given

from impl.layers.reinforcement import ReplayBuffer
from spec import laws
from spec.cases import dqn, ppo, sac
from spec.laws import random
from spec.strategies import sizes

REMEMBERING = pytest.mark.parametrize(
    "memory", [pytest.param(ReplayBuffer, marks=pytest.mark.item(i), id=i) for i in ("double-dueling-dqn", "sac")]
)


@REMEMBERING
@given(capacity=sizes(1, 5), count=sizes(1, 12))
def test_memory_keeps_the_latest_and_their_own_next_state(memory, capacity, count):
    """Of n transitions the last `capacity` are there, each with all of its own parts, the last state of an episode too.

    Source: Mnih et al. 2015, Nature 518: the memory has the N latest experiences.
    """
    memory = memory(capacity)
    for k in range(count):  # an episode ends at every third step: its next state is 1000 + k, and not the next first
        following = 1000.0 + k if k % 3 == 2 else k + 1.0
        memory.add(torch.tensor([float(k), 2.0 * k]), k % 2, 0.5 * k, torch.tensor([following]), k % 3 == 2)
    assert len(memory) == min(count, capacity), f"expected {min(count, capacity)} kept, found {len(memory)}"
    states, actions, rewards, following, ends = memory.sample(300, torch.Generator().manual_seed(count))
    k = states[:, 0]
    assert set(k.tolist()) == set(range(max(count - capacity, 0), count)), f"found {set(k.tolist())}"
    laws.assert_same(states[:, 1], 2 * k)
    laws.assert_same(rewards, 0.5 * k)
    laws.assert_same(actions, (k % 2).long())
    laws.assert_same(ends, k % 3 == 2)
    laws.assert_same(following[:, 0], torch.where(ends, 1000 + k, k + 1))


@REMEMBERING
def test_memory_is_sampled_uniformly_with_replacement(memory):
    """Each of five transitions is a fifth of 10,000 samples, within 0.02: five standard errors.

    Source: Mnih et al. 2015: samples drawn uniformly at random.
    """
    memory = memory(8)
    for k in range(5):
        memory.add(k)
    (found,) = memory.sample(10000, torch.Generator().manual_seed(0))
    shares = torch.bincount(found, minlength=5) / 10000
    assert (shares - 0.2).abs().max() < 0.02, f"expected a fifth each, found {shares}"


@REMEMBERING
def test_memory_has_copies(memory):
    """What is changed after it was added is not changed in the memory, nor by a change of a sample.

    Source: this project; environments write into one array.
    """
    memory, observation = memory(2), random(3)
    expected = observation.clone()[None]
    memory.add(observation)
    observation += 5
    memory.sample(1)[0].zero_()
    laws.assert_same(memory.sample(1)[0], expected)


def update_dqn(agent):
    agent.update(dqn.batch())


def update_sac(agent):
    agent.update(sac.batch(), torch.Generator().manual_seed(0))


def update_ppo(agent):
    world = ppo.Scripted()
    start = torch.tensor(world.observations()).float()
    rollout, _ = agent.collect(world, start, 6, torch.Generator().manual_seed(0))
    agent.update(rollout, generator=torch.Generator().manual_seed(0))


AGENTS = [
    pytest.param(
        lambda: dqn.agent(lr=0.1, target_every=3), update_dqn, marks=pytest.mark.item("double-dueling-dqn"), id="dqn"
    ),
    pytest.param(
        lambda: ppo.agent(lr=0.1, epochs=2, minibatch_size=5), update_ppo, marks=pytest.mark.item("ppo"), id="ppo"
    ),
    pytest.param(lambda: sac.agent(lr=0.1, tau=0.3), update_sac, marks=pytest.mark.item("sac"), id="sac"),
]


@pytest.mark.parametrize(("make", "update"), AGENTS)
def test_a_saved_agent_goes_on_as_it_would_have(make, update):
    """An agent that takes over another's state has its next updates, bit for bit; the saved state does not change.

    Source: this project: a checkpoint loses nothing, counts, moments of Adam and slow copies included.
    """
    agent, other = make(), make()
    for _ in range(2):
        update(agent)
    saved = copy.deepcopy(agent.state_dict())
    other.load_state_dict(agent.state_dict())
    for number in range(2):
        for one in (agent, other):
            update(one)
        states = [_flat(one.state_dict()) for one in (agent, other)]
        assert states[0].keys() == states[1].keys(), "expected states of the same parts"
        for name, value in states[0].items():
            laws.assert_same(states[1][name], value, f"{name} after {number + 1} more updates")
    changed = [name for name, value in _flat(saved).items() if not torch.equal(value, states[0][name])]
    assert changed, "expected updates that change something"
    third = make()
    third.load_state_dict(saved)
    for name, value in _flat(third.state_dict()).items():
        laws.assert_same(value, _flat(saved)[name], name)


def _flat(state, prefix=""):
    """The tensors of a nested state by their path."""
    found = {}
    for name, value in state.items() if isinstance(state, dict) else enumerate(state):
        if isinstance(value, torch.Tensor):
            found[f"{prefix}{name}"] = value.detach().clone()
        elif isinstance(value, dict | list | tuple):
            found |= _flat(value, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize(("make", "update"), AGENTS)
def test_the_state_of_another_agent_is_refused(make, update):
    """A state without one of the parts raises ValueError, and changes nothing.

    Source: this project: bad input gets a clear error.
    """
    agent = make()
    update(agent)
    state = agent.state_dict()
    agent.load_state_dict(state)
    before = _flat(copy.deepcopy(state))
    laws.rejects(lambda: agent.load_state_dict({}))
    for name, value in _flat(agent.state_dict()).items():
        laws.assert_same(value, before[name], name)
