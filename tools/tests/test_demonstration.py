"""What the training commands share: a run that resumes, a checkpoint that is never half written, a grid of images."""

import importlib
import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

# Under another package's name: an imported `impl` would be found by the runs that other tests make in this process.
FOLDER = Path(__file__).parents[2] / "impl"
SPEC = importlib.util.spec_from_file_location("demonstrated", FOLDER / "__init__.py")
sys.modules["demonstrated"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(sys.modules["demonstrated"])
demonstration = importlib.import_module("demonstrated.demonstration")
arguments, digits, save_grid, train = (getattr(demonstration, n) for n in ("arguments", "digits", "save_grid", "train"))


def a_run(folder, steps, stop=None, report=lambda line: None):
    """A line fitted to random points; returns its weights. `stop` interrupts it in the middle of that step."""
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    calls = []

    def step():
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        x = torch.randn(5, 2, generator=generator)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, steps, generator, folder, every=4, report=report)
    return [p.detach().clone() for p in model.parameters()]


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = a_run(tmp_path / "whole", 11)
    with pytest.raises(KeyboardInterrupt):
        a_run(tmp_path / "parts", 11, stop=7)
    lines = []
    resumed = a_run(tmp_path / "parts", 11, report=lines.append)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert lines[0].startswith("going on from step 4") and lines[-1].startswith("step 11 of 11: loss ")


def test_a_write_that_fails_loses_nothing(tmp_path, monkeypatch):
    a_run(tmp_path, 4)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def fails_half_way(_, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fails_half_way)
    with pytest.raises(OSError, match="disk full"):
        a_run(tmp_path, 8)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    a_run(tmp_path, 8)
    with pytest.raises(ValueError, match=re.escape("after 8 steps")):
        a_run(tmp_path, 4)
    generator = torch.Generator()
    with pytest.raises(ValueError, match="other.*got.*model"):
        train(dict, {"other": nn.Linear(1, 1)}, 9, generator, tmp_path)


def test_a_grid_holds_each_image_at_its_place(tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    images = torch.zeros(3, 1, 2, 4)
    images[1, 0, 1, 2], images[2] = 1.0, 2.0  # 2.0 is clamped to white
    save_grid(images, tmp_path / "grid.png", columns=2, scale=3)
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size == (2 * 5 * 3, 2 * 3 * 3)
        assert image.getpixel((0, 0)) == (0, 0, 0)
        assert image.getpixel(((5 + 2) * 3, 1 * 3)) == (255, 255, 255)  # the second image's bright pixel, left edge
        assert image.getpixel(((5 + 2) * 3 - 1, 1 * 3)) == (0, 0, 0)
        assert image.getpixel((0, 3 * 3)) == (255, 255, 255)


@pytest.mark.parametrize("bad", [torch.zeros(2, 2, 3, 3), torch.zeros(0, 1, 3, 3), torch.full((1, 1, 3, 3), torch.nan)])
def test_what_is_no_image_is_refused(bad, tmp_path):
    pytest.importorskip("PIL")
    with pytest.raises(ValueError, match="expected .* images"):
        save_grid(bad, tmp_path / "grid.png")


def test_arguments_are_checked(tmp_path, capsys):
    found = arguments("x", "Does x.", 7, ["--out", str(tmp_path / "new" / "folder")])
    assert found.out.is_dir() and (found.steps, found.seed) == (7, 0)
    with pytest.raises(SystemExit):
        arguments("x", "Does x.", 7, ["--out", str(tmp_path), "--steps", "0"])
    assert "expected --steps of 1 or more, got 0" in capsys.readouterr().err


def test_digits_are_images_in_the_unit_interval():
    images, labels = digits()
    assert images.shape == (1797, 1, 8, 8) and images.min() == 0 and images.max() == 1
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_neighbours_are_the_nearest_others():
    points = torch.tensor([[0.0], [1.0], [3.0], [3.5]])
    edges = demonstration.nearest_neighbors(points, 2)
    assert edges.tolist() == [[1, 2, 0, 2, 3, 1, 2, 1], [0, 0, 1, 1, 2, 2, 3, 3]]
    with pytest.raises(ValueError, match="expected 1 <= k < 4 neighbours, got 4"):
        demonstration.nearest_neighbors(points, 4)


def test_points_are_drawn_where_they_vary_most(tmp_path):
    from PIL import Image

    points = torch.tensor([[0.0, -5.0, 0.0], [0.0, 5.0, 0.1], [0.3, 0.0, 0.0], [-0.3, 0.0, 0.0]])
    demonstration.save_points(points, torch.tensor([0, 1, 2, 3]), tmp_path / "points.png", side=100)
    image = Image.open(tmp_path / "points.png").convert("RGB")
    ends = {image.getpixel((4, 50)), image.getpixel((95, 50))}
    assert image.size == (100, 100) and ends == {(31, 119, 180), (255, 127, 14)}  # the two far ones lie left and right
    with pytest.raises(ValueError, match="got .* with NaN and 4 labels"):
        demonstration.save_points(points * torch.nan, torch.tensor([0, 1, 2, 3]), tmp_path / "none.png")


def test_a_probe_finds_what_the_features_tell():
    labels = torch.arange(40) % 10
    known, new = torch.arange(20), torch.arange(20, 40)
    telling = torch.eye(10)[labels] + 0.01 * torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    silent = torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    assert demonstration.accuracy_of_a_probe(telling, labels, known, new) == 1
    assert demonstration.accuracy_of_a_probe(silent, labels, known, new) < 0.5


def test_curves_have_a_strip_each(tmp_path):
    from PIL import Image

    demonstration.save_curves({"up": [0.0, 1.0], "down": [1.0, 0.0]}, tmp_path / "c.png", width=100, height=60)
    image = Image.open(tmp_path / "c.png").convert("RGB")
    ink = [(x, y) for x in range(100) for y in range(120) if image.getpixel((x, y)) == (31, 119, 180)]
    first, second = ([(x, y) for x, y in ink if (y < 60) == top] for top in (True, False))
    assert image.size == (100, 120) and max(first)[1] < min(first)[1] and max(second)[1] > min(second)[1]
    for wrong in ([1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="expected two numbers or more without NaN for a, got"):
            demonstration.save_curves({"a": wrong}, tmp_path / "none.png")


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_environments_go_on_where_their_state_was_taken(name):
    """Over episodes' ends and starts; gymnasium's own time limit counts on."""
    import numpy

    def act(world, steps, seed):
        draw, seen = numpy.random.default_rng(seed), []
        for _ in range(steps):
            actions = draw.integers(0, 2, 3) if name == "CartPole-v1" else draw.uniform(-2, 2, (3, 1))
            after, rewards, terminated, truncated, info = world.step(list(actions))
            final = numpy.concatenate(info["final_obs"])
            seen.append([numpy.concatenate(after), rewards, terminated, truncated, final])
        return seen

    first, second = (demonstration.Environments(name, 3, seed) for seed in (1, 2))
    act(first, 150, 0)
    state = first.state_dict()
    path_of_first = act(first, 120, 3)
    second.load_state_dict(state)
    assert all((a == b).all() for a, b in zip(second.observations, state_observations(state), strict=True))
    for one, other in zip(path_of_first, act(second, 120, 3), strict=True):
        for a, b in zip(one, other, strict=True):
            numpy.testing.assert_allclose(a, b, rtol=1e-12)
    assert first.returns == second.returns and len(first.returns) > 2
    buffer = io.BytesIO()  # plain numbers, as a checkpoint takes them
    torch.save(state, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == state


def state_observations(state):
    import numpy

    return [numpy.array(copy["seen"], dtype=numpy.float32) for copy in state["copies"]]


def test_a_memory_goes_on_with_what_it_had():
    first, second = demonstration.Memory(3), demonstration.Memory(3)
    for k in range(5):
        first.add(torch.tensor([float(k)]), k)
    second.load_state_dict(first.state_dict())
    first.add(torch.tensor([9.0]), 9)  # of no effect on the second
    second.add(torch.tensor([5.0]), 5)
    for memory, last in ((first, 9), (second, 5)):
        found = memory.sample(60, torch.Generator().manual_seed(0))
        assert set(found[1].tolist()) == {3, 4, last} and torch.equal(found[0][:, 0], found[1].float())


PAGES = sorted(f.parent.name for f in FOLDER.glob("models/*/__main__.py") if "demonstration import" in f.read_text())


def test_commands_train_and_draw(tmp_path):
    """Two steps each, and none in a second call, which finds the checkpoint."""
    program = "import importlib, sys\nfor name in sys.argv[2:]:\n"
    program += "    main = importlib.import_module(f'impl.models.{name}.__main__').main\n"
    program += "    for _ in range(2):\n        main(['--steps', '2', '--out', f'{sys.argv[1]}/{name}'])\n"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), *PAGES], cwd=FOLDER.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in PAGES:
        assert f"going on from step 2 of {tmp_path}/{name}" in done.stdout, f"{name} did not go on: {done.stdout}"
        assert list((tmp_path / name).glob("*.png")), f"{name} drew nothing"
