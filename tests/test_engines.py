"""What the trainers are fed and what their handlers do, by hand and by counting."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.training import handlers as engines
from medseglatdiff_monai.training.augmentation import BatchAugmentation, TransformAugmentation
from medseglatdiff_monai.training.batches import PrepareDenoising, PrepareEnsemble, PrepareImages, PrepareMasks
from medseglatdiff_monai.training.handlers import (
    GradientClipping,
    LearningRateSchedule,
    SeedEachEpoch,
    TrainingTimeLimit,
)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def make_batch(cases: int = 4, side: int = 6) -> dict[str, torch.Tensor]:
    """Images of noise; rater r's mask of a case is where the image exceeds a level of the rater's own."""
    image = torch.rand(cases, 1, side, side)
    label = torch.cat([image > level for level in (0.2, 0.4, 0.6, 0.8)], dim=1).to(torch.uint8)
    return {"image": image, "label": label}


def symmetries(x: torch.Tensor) -> list[torch.Tensor]:
    turned = [torch.rot90(x, k, (-2, -1)) for k in range(4)]
    return turned + [y.flip(-1) for y in turned]


def test_augmentation_keeps_image_and_label_aligned_and_draws_all_eight_symmetries() -> None:
    batch = make_batch(400)
    image, label = BatchAugmentation()(batch["image"], batch["label"])
    levels = torch.tensor([0.2, 0.4, 0.6, 0.8]).view(4, 1, 1)
    assert torch.equal(label.bool(), image > levels)
    drawn = [
        next(k for k, candidate in enumerate(symmetries(before)) if torch.equal(candidate, after))
        for before, after in zip(batch["image"], image, strict=True)
    ]
    counts = torch.bincount(torch.tensor(drawn), minlength=8)
    # 50 expected of each; the chance of less than 25 is below 1e-4.
    assert counts.min() >= 25


def test_augmentation_of_a_rectangle_flips_alone() -> None:
    image = torch.rand(100, 1, 2, 3)
    turned, _ = BatchAugmentation()(image, image)
    assert turned.shape == image.shape
    flips = torch.stack([image, image.flip(-1), image.flip(-2), image.flip((-2, -1))])
    matches = (flips == turned).flatten(2).all(2)
    assert matches.any(0).all()
    assert matches.any(1).all()


@pytest.mark.parametrize("change", ["gamma", "brightness", "contrast", "colour"])
def test_intensities_change_within_bounds_and_labels_do_not(change: str) -> None:
    batch = make_batch(64)
    image, label = BatchAugmentation(flips=False, **{change: 0.3})(batch["image"], batch["label"])
    assert torch.equal(label, batch["label"])
    assert image.min() >= 0
    assert image.max() <= 1
    before, inside = batch["image"], (image > 0) & (image < 1)
    if change == "gamma":
        drawn = (image.log() / before.log()).log()
    elif change == "brightness":
        drawn = image - before
    elif change == "colour":
        drawn = image / before - 1
    else:
        mean = before.mean((1, 2, 3), keepdim=True)
        drawn = (image - mean) / (before - mean) - 1
    per_case = [values[kept] for values, kept in zip(drawn, inside, strict=True)]
    # One draw a case, the same at every pixel, spread over the whole interval.
    assert max(float(values.max() - values.min()) for values in per_case) < 5e-3
    values = torch.stack([values.median() for values in per_case])
    assert values.abs().max() <= 0.301
    assert values.max() > 0.2
    assert values.min() < -0.2


def test_images_are_input_and_target_after_the_same_augmentation() -> None:
    inputs, targets = PrepareImages(BatchAugmentation(gamma=0.3))(make_batch())[:2]
    assert torch.equal(inputs, targets)


def test_missing_key_is_named() -> None:
    with pytest.raises(InputError, match="no 'label', only \\['image'\\]"):
        PrepareMasks()({"image": torch.zeros(1, 1, 2, 2)})


@pytest.mark.parametrize(("empty_share", "expected"), [(0.0, 0.0), (0.4, 0.2), (1.0, 0.5)])
def test_share_of_empty_masks(empty_share: float, expected: float) -> None:
    """Two of four raters marked something: every second draw among all raters is empty."""
    label = torch.zeros(4000, 4, 2, 2, dtype=torch.uint8)
    label[:, 1, 0, 0] = 1
    label[:, 3] = 1
    masks, target = PrepareMasks(empty_share)({"image": torch.zeros(4000, 1, 2, 2), "label": label})
    assert masks.shape == (4000, 1, 2, 2)
    assert masks.dtype == torch.float32
    assert masks is target
    sizes = masks.sum((1, 2, 3))
    share = lambda size: float((sizes == size).float().mean())  # noqa: E731
    assert share(0) == pytest.approx(expected, abs=0.04)
    assert share(1) == pytest.approx((1 - expected) / 2, abs=0.04)
    assert share(4) == pytest.approx((1 - expected) / 2, abs=0.04)


def test_case_that_nobody_marked_gives_empty_masks() -> None:
    masks, _ = PrepareMasks(0.0)({"image": torch.zeros(2, 1, 2, 2), "label": torch.zeros(2, 4, 2, 2)})
    assert masks.shape == (2, 1, 2, 2)
    assert not masks.any()


@pytest.mark.parametrize(("draws", "least", "most"), [(2, 0, 1), (4, 1, 1), (6, 1, 2), (8, 2, 2)])
def test_draws_take_each_rater_equally_often(draws: int, least: int, most: int) -> None:
    label = torch.arange(4).view(1, 4, 1, 1).expand(500, 4, 2, 2)
    image, raters, (masks,), _ = PrepareDenoising(draws)({"image": torch.zeros(500, 1, 2, 2), "label": label})
    assert image.shape == (500, 1, 2, 2)
    assert torch.equal(raters, label)
    assert masks.shape == (500, draws, 2, 2)
    assert masks.dtype == torch.float32
    counts = torch.stack([(masks[..., 0, 0] == rater).sum(1) for rater in range(4)])
    assert counts.min() == least
    assert counts.max() == most
    # Over the cases no rater is preferred, not in the first draw either.
    assert torch.allclose(counts.float().mean(1), torch.tensor(draws / 4), atol=0.1)
    first = torch.bincount(masks[:, 0, 0, 0].long(), minlength=4) / 500
    assert torch.allclose(first, torch.tensor(0.25), atol=0.08)


def test_consensus_is_the_target_of_all_draws() -> None:
    votes = torch.tensor([0, 1, 2, 3, 4])
    label = (torch.arange(4).view(4, 1) < votes).to(torch.uint8).view(1, 4, 1, 5)
    _, _, (masks,), _ = PrepareDenoising(3, "consensus")({"image": torch.zeros(1, 1, 1, 5), "label": label})
    assert masks.tolist() == [[[[0, 0, 1, 1, 1]]] * 3]


def test_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match="'mean'"):
        PrepareDenoising(target="mean")


def test_evaluation_gets_images_raters_and_case_ids() -> None:
    image, label, arguments, keywords = PrepareEnsemble()({**make_batch(2), "case": ("a", "b")})
    assert image.shape == (2, 1, 6, 6)
    assert label.shape == (2, 4, 6, 6)
    assert arguments == ()
    assert keywords == {"cases": ["a", "b"]}


def engine_at(iteration: int = 0, epoch: int = 1, max_epochs: int = 5, epoch_length: int = 20, dataloader=None):
    state = SimpleNamespace(
        iteration=iteration, epoch=epoch, max_epochs=max_epochs, epoch_length=epoch_length, dataloader=dataloader
    )
    return SimpleNamespace(state=state)


@pytest.mark.parametrize(
    ("iteration", "factor"),
    # Ten of a hundred iterations warm up; over the last forty the rate falls along half a cosine to 1%.
    [(1, 0.1), (5, 0.5), (10, 1.0), (60, 1.0), (70, 0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2), (80, 0.505), (100, 0.01)],
)
def test_learning_rate_by_hand(iteration: int, factor: float) -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": parameters[:1], "lr": 0.5}, {"params": parameters[1:], "lr": 2.0}])
    schedule = LearningRateSchedule(optimizer, warmup_iterations=10, decay_share=0.4)
    # A function of the iteration alone: a rate left over from elsewhere does not matter.
    optimizer.param_groups[0]["lr"] = 77.0
    schedule(engine_at(iteration))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5 * factor, 2.0 * factor])


def test_learning_rate_stays_without_decay() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    LearningRateSchedule(optimizer, warmup_iterations=0)(engine_at(100))
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(("iteration", "factor"), [(1, 1.0), (51, 0.5**0.9), (100, 0.01**0.9)])
def test_learning_rate_falls_as_a_power(iteration: int, factor: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    engine = engine_at(iteration)
    engine.state.max_epochs, engine.state.epoch_length = 10, 10
    LearningRateSchedule(optimizer, warmup_iterations=0, decay_power=0.9)(engine)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * factor)


def test_transforms_treat_image_and_raters_alike_and_every_case_by_itself() -> None:
    from monai.transforms import Compose, RandFlipd, RandScaleIntensityd

    augmentation = TransformAugmentation(
        Compose([RandFlipd(["image", "label"], prob=0.5, spatial_axis=1), RandScaleIntensityd("image", 0.5, prob=1.0)])
    )
    batch = make_batch(cases=32)
    torch.manual_seed(1)
    image, label = augmentation(batch["image"], batch["label"])
    torch.manual_seed(1)
    again, _ = augmentation(batch["image"], batch["label"])
    assert torch.equal(image, again)
    assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)
    flipped, factors = 0, set()
    for x, y, before, raters in zip(image, label, batch["image"], batch["label"], strict=True):
        turned = bool(torch.equal(y, raters.flip(-1)))
        assert turned or torch.equal(y, raters)
        flipped += turned
        ratio = x / (before.flip(-1) if turned else before)
        assert float(ratio.std()) < 1e-4
        factors.add(round(float(ratio.mean()), 4))
    assert 5 < flipped < 27
    assert len(factors) > 25


def test_transforms_and_kept_latents_exclude_each_other() -> None:
    from monai.transforms import Compose

    latents = SimpleNamespace(target="consensus")
    for augmentation in (TransformAugmentation(Compose([])), BatchAugmentation(rotation=10.0)):
        with pytest.raises(InputError, match="--cache_latents false"):
            PrepareDenoising(target="consensus", augmentation=augmentation, latents=latents)


def test_gradient_is_clipped_to_the_norm() -> None:
    network = nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    GradientClipping(network, 1.0)(engine_at())
    assert network.weight.grad.flatten().tolist() == pytest.approx([0.6, 0.8], abs=1e-5)
    network.weight.grad = torch.tensor([[0.3, 0.4]])
    GradientClipping(network, 1.0)(engine_at())
    assert network.weight.grad.flatten().tolist() == pytest.approx([0.3, 0.4])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradient_that_is_not_finite_stops_the_run(value: float) -> None:
    network = nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.tensor([[1.0, value]])
    with pytest.raises(InputError, match=r"not finite at iteration 7.*--learning_rate"):
        GradientClipping(network)(engine_at(7))


def test_random_numbers_belong_to_seed_and_epoch() -> None:
    def draw(seed: int, epoch: int) -> float:
        SeedEachEpoch(seed)(engine_at(epoch=epoch, iteration=20 * (epoch - 1)))
        return float(torch.rand(()))

    torch.rand(3)
    first = draw(0, 1)
    assert draw(0, 1) == first
    assert len({first, draw(0, 2), draw(1, 1), draw(1, 2)}) == 4


def test_sampler_of_several_processes_is_told_the_epoch() -> None:
    told = []
    loader = SimpleNamespace(sampler=SimpleNamespace(set_epoch=told.append))
    SeedEachEpoch()(engine_at(epoch=3, iteration=40, dataloader=loader))
    assert told == [3]


def test_rest_of_an_epoch_is_not_its_beginning_again() -> None:
    """A time limit cut the epoch after some batches: what remains is drawn afresh."""
    SeedEachEpoch()(engine_at(epoch=2, iteration=20))
    whole = float(torch.rand(()))
    SeedEachEpoch()(engine_at(epoch=2, iteration=25))
    assert float(torch.rand(())) != whole


def test_time_limit_ends_the_run_after_the_iteration_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(engines, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def step(engine: Engine, batch: int) -> None:
        clock.now += 25.0

    engine = Engine(step)
    TrainingTimeLimit(1.0).attach(engine)
    engine.run(range(10), max_epochs=1)
    # 25 and 50 seconds are within the minute, 75 are not.
    assert engine.state.iteration == 3


def test_a_validation_is_given_up_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(engines, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def take(seconds: float) -> Engine:
        return Engine(lambda engine, batch: setattr(clock, "now", clock.now + seconds))

    trainer, validator = take(10.0), take(30.0)
    scored: list[int] = []
    validator.add_event_handler(Events.EPOCH_COMPLETED, lambda: scored.append(validator.state.iteration))
    TrainingTimeLimit(1.0, validator=validator).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: validator.run(range(5)))
    trainer.run(range(2), max_epochs=9)
    # Two steps of the training and two of the validation are 80 seconds.
    assert (trainer.state.iteration, validator.state.iteration, scored) == (3, 2, [])
    validator.run(range(5))
    assert scored == [5], "a validation after the training has its own time"


def rates_under_a_time_limit(
    monkeypatch: pytest.MonkeyPatch, minutes: float | None, start: int = 0, **arguments: float
) -> list[float]:
    """Rates of the iterations, 15 seconds each, of a training of at most 10 that goes on after ``start`` of them."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(engines, "time", SimpleNamespace(monotonic=lambda: clock.now))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    rates = []

    def step(engine: Engine, batch: int) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        clock.now += 15.0

    def restore(engine: Engine) -> None:
        engine.state.iteration, engine.state.epoch = start, start

    engine = Engine(step)
    LearningRateSchedule(optimizer, warmup_iterations=0, **arguments).attach(engine)
    TrainingTimeLimit(minutes).attach(engine)
    # After the handlers of the configuration, as the stages' checkpoint has it.
    engine.add_event_handler(Events.STARTED, restore)
    engine.run(range(1), max_epochs=10)
    return rates


def test_decay_comes_to_its_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four of ten iterations fit into the minute: before them 0, 1/4, 2/4 and 3/4 of it are over.
    assert rates_under_a_time_limit(monkeypatch, 1.0, decay_power=1.0) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    half_a_cosine = [0.01 + 0.99 * (1 - math.cos(math.pi * left)) / 2 for left in (0.9, 0.75, 0.5, 0.25)]
    assert rates_under_a_time_limit(monkeypatch, 1.0, decay_share=1.0) == pytest.approx(half_a_cosine)


def test_decay_follows_the_epochs_where_they_end_first(monkeypatch: pytest.MonkeyPatch) -> None:
    by_epochs = [1.0 - done / 10 for done in range(10)]
    assert rates_under_a_time_limit(monkeypatch, 60.0, decay_power=1.0) == pytest.approx(by_epochs)
    assert rates_under_a_time_limit(monkeypatch, None, decay_power=1.0) == pytest.approx(by_epochs)


def test_decay_goes_on_from_the_iterations_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four of ten were done before, and four of the other six fit in: what is left, 0.6, falls over this minute.
    rates = rates_under_a_time_limit(monkeypatch, 1.0, start=4, decay_power=1.0)
    assert rates == pytest.approx([0.6, 0.45, 0.3, 0.15])


def test_without_decay_a_time_limit_leaves_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rates_under_a_time_limit(monkeypatch, 1.0) == [1.0] * 4


@pytest.mark.parametrize("minutes", [0, -1.0])
def test_time_limit_must_be_positive(minutes: float) -> None:
    with pytest.raises(InputError, match="--max-minutes"):
        TrainingTimeLimit(minutes)
