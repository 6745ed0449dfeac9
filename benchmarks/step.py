"""The training steps of the core, each beside what one would write first. No Ray, no DeepSpeed, no data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Figure, figure, in_turn
from compgan_core import losses
from compgan_core.compgan import (
    CALLS,
    CONSTRUCTED,
    EXPRESSION_OF_CALL,
    LOOP_A,
    LOOP_B,
    POSE_OF_CALL,
    RECONSTRUCTED,
    TARGET,
    CompGAN,
    Tuples,
)
from compgan_core.losses import Weights
from compgan_core.nets.classifier import FaceClassifier
from compgan_core.nets.gan import Discriminator, Generator
from compgan_core.recipe import Recipe, make_recipe
from compgan_core.training.classifier import ClassifierRecipe, Examples, supervised_update
from compgan_core.training.gan import compgan_update
from compgan_core.training.graphed import graphed
from compgan_core.training.loop import Update, arrange
from compgan_core.training.runtime import trainable

TUPLES = {"cpu": {"paper": 2, "tiny": 8}, "cuda": {"paper": 8, "small": 8}}
FACES = {"cpu": 16, "cuda": 128}
TOLERANCE = {"cpu": 1e-3, "cuda": 1e-2}  # of gradients in float32: cuDNN may take a Winograd transform for one of two
CLASSES = {"expressions": 54, "poses": 4, "identities": 119}  # F2ED's


def step(device: torch.device, repeats: int) -> list[Figure]:
    """One Comp-GAN update (three gradients, no optimizer), fp32 and bf16, against the naive one in fp32."""
    figures = []
    for preset, tuples in TUPLES[device.type].items():
        with fp32_is_fp32():
            worlds = {p: World(preset, p, tuples, device) for p in ("float32", "bfloat16")}
            plain = World(preset, "float32", tuples, device, arranged=False)
            works: dict[str, Callable[[], object]] = {"naive": plain.naive}
            works |= {p: world.ours for p, world in worlds.items()}
            seconds = in_turn(works, repeats, device)
            off, floor = distance(plain.naive(), worlds["float32"].ours()), 0.0
            if device.type == "cuda":
                worlds["float32"].check_replay()
                floor = plain.distance_to_itself()
            allowed = max(TOLERANCE[device.type], 2 * floor)
            assert off < allowed, f"gradients are {off} apart from those of the naive step, {floor} between kernels"
        name = f"Comp-GAN step, {preset}, {tuples} tuples"
        figures += [figure(f"{name}, {work}", "s", values) for work, values in seconds.items()]
        figures += [ratio(f"{name}, naive / {p}", seconds["naive"], seconds[p]) for p in worlds]
        figures.append(figure(f"{name}, greatest relative distance of gradients", "", [off]))
        figures.append(figure(f"{name}, the same of the naive step with other kernels", "", [floor]))
        figures += [figure(f"{name}, peak memory, {p}", "GB", [peak_gb(w, device)]) for p, w in worlds.items()]
    return [f for f in figures if f.median > 0]  # memory is read on GPUs only


def lightcnn(device: torch.device, repeats: int) -> list[Figure]:
    """A training step of LightCNN-29v2 without its optimizer, 128 x 128, against plain layers in fp32 and NCHW."""
    faces = FACES[device.type]
    batch = Examples(
        torch.rand(faces, 3, 128, 128, device=device) * 2 - 1, *torch.zeros(3, faces, dtype=torch.int64, device=device)
    )
    numbers = torch.arange(faces, device=device)
    works: dict[str, Callable[[], object]] = {}
    for precision in ("float32", "bfloat16"):
        recipe = ClassifierRecipe(precision=precision)
        model = FaceClassifier(make_recipe("paper", "ER-FE").network, 128, **CLASSES).to(device)
        arrange(model, device, precision)

        def whole(*inputs: Tensor, model: nn.Module = model, recipe: ClassifierRecipe = recipe) -> Update:
            return supervised_update(model, Examples(*inputs[:-1]), inputs[-1], recipe, seed=0)

        compute = graphed(whole, device)
        works[precision] = lambda compute=compute: compute(*batch, numbers)
    plain = FaceClassifier(make_recipe("paper", "ER-FE").network, 128, **CLASSES).to(device)
    works["naive"] = lambda: naive_supervised(plain, batch)
    with fp32_is_fp32():
        seconds = in_turn(works, repeats, device)
    name = f"LightCNN-29v2 training, 128 x 128, batch {faces}"
    figures = [figure(f"{name}, {w}", "images/s", [faces / s for s in values]) for w, values in seconds.items()]
    return figures + [ratio(f"{name}, {p} / naive", seconds["naive"], seconds[p]) for p in ("float32", "bfloat16")]


class World:
    """Untrained networks of a preset, a batch of noise, and the two steps on them."""

    def __init__(self, preset: str, precision: str, tuples: int, device: torch.device, arranged: bool = True):
        self.recipe = make_recipe(preset, "ER-FE", overrides={"compgan.precision": precision})
        torch.manual_seed(0)
        self.gan, self.discriminator, self.classifier, self.batch = world(self.recipe, tuples, device)
        if arranged:
            for network in (self.gan, self.discriminator, self.classifier):
                arrange(network, device, precision)
        self._compute = graphed(self.update, device)
        self._ramp: float | Tensor = torch.ones((), device=device) if device.type == "cuda" else 1.0

    def update(self, *inputs) -> Update:
        recipe, networks = self.recipe, (self.gan, self.discriminator, self.classifier)
        batch, ramp = Tuples(*inputs[:-1]), inputs[-1]
        return compgan_update(*networks, batch, recipe.compgan, recipe.lambda_, recipe.mu, ramp)

    def ours(self) -> Update:
        return self._compute(*self.batch.tensors, self._ramp)

    def eager(self) -> Update:
        return self.update(*self.batch.tensors, self._ramp)

    def check_replay(self) -> None:
        """A recorded step must follow its inputs, its ramp and the weights, and be the eager one."""
        self.ours()
        with torch.no_grad():
            self.batch = Tuples(*(x.flip(1) if x.is_floating_point() else x for x in self.batch.tensors))
            for parameter in [*self.gan.parameters(), *self.discriminator.parameters()]:
                parameter.mul_(1.01)
        before, self._ramp = self._ramp, torch.full_like(torch.as_tensor(self._ramp), 0.25)
        apart = distance(self.eager(), self.ours())
        self._ramp = before
        assert apart < TOLERANCE[self.batch.reals.device.type], (
            f"gradients of the recorded step are {apart} apart from those of the same step, not recorded"
        )

    def distance_to_itself(self) -> float:
        """How far the naive step's gradients are from its own, had cuDNN chosen other kernels (or torch its own)."""
        first = self.naive()
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            measured = distance(first, self.naive())
        with torch.backends.cudnn.flags(enabled=False):
            return max(measured, distance(first, self.naive()))

    def naive(self) -> Update:
        return naive_update(self.gan, self.discriminator, self.classifier, self.batch, self.recipe)


def world(recipe: Recipe, tuples: int, device: torch.device) -> tuple[CompGAN, Discriminator, FaceClassifier, Tuples]:
    """Untrained networks of a recipe and a batch of noise."""
    size = recipe.faces.size
    gan = CompGAN(Generator(recipe.compgan.generator), Generator(recipe.compgan.generator)).to(device)
    discriminator = Discriminator(recipe.compgan.discriminator, size).to(device)
    classifier = FaceClassifier(recipe.network, size, **CLASSES).to(device).requires_grad_(False)
    noise = (torch.rand(12, tuples, 3, size, size) * 2 - 1).to(device)
    labels = torch.zeros(2, tuples, dtype=torch.int64, device=device)
    return gan, discriminator, classifier, Tuples(noise[:4], noise[4:], labels, labels, labels[0])


# --- What one would write first ---------------------------------------------------------------------------------------


def naive_update(
    gan: CompGAN, discriminator: Discriminator, classifier: FaceClassifier, batch: Tuples, recipe: Recipe
) -> Update:
    """Algorithm 1 and Eq. (1)-(13) as they are printed: F_cls on one image (of each tuple) at a time, truth included,
    `torch.maximum` of chunks, and a whole `backward` of each generator's sum, keeping the gradients it is for."""
    options = recipe.compgan
    fakes: list[Tensor] = []
    for call, reference in zip(CALLS, batch.references, strict=True):
        generator = gan.pose if call.generator == "pose" else gan.exp
        fakes.append(generator(batch.reals[0] if call.source < 0 else fakes[call.source], reference))
    exp = pose = identity = con = recon = adv = torch.zeros((), device=batch.reals.device)
    with plain_maximum():
        for k, fake in enumerate(fakes):
            look = _softened if options.blur else lambda faces: faces
            real = batch.reals[TARGET[k]]
            maps, logits = classifier.maps_and_logits(look(fake))
            with torch.no_grad():
                real_maps, _ = classifier.maps_and_logits(look(real))
            exp = exp + F.cross_entropy(logits.expression, batch.expression[EXPRESSION_OF_CALL[k]])
            pose = pose + F.cross_entropy(logits.pose, batch.pose[POSE_OF_CALL[k]])
            identity = identity + F.cross_entropy(logits.identity, batch.identity)
            perceptual = sum((a - b).abs().mean() for a, b in zip(maps, real_maps, strict=True))
            truth = options.gamma1 * (fake - real).abs().mean() + options.gamma2 * perceptual
            con, recon = (con + truth, recon) if k in range(8)[CONSTRUCTED] else (con, recon + truth)
            adv = adv + F.softplus(-discriminator(fake)).mean()
        assert range(8)[RECONSTRUCTED] == range(4, 8)
        loop = sum((fakes[a] - fakes[b]).abs().mean() for a, b in zip(LOOP_A, LOOP_B, strict=True))
        terms = {"exp": exp, "pose": pose, "id": identity, "con": con, "recon": recon, "loop": loop, "adv": adv}
        gradients = {}
        for name, generator, weights in (("pose", gan.pose, recipe.lambda_), ("exp", gan.exp, recipe.mu)):
            _naive_sum(terms, weights, recipe).backward(retain_graph=name == "pose")
            gradients[name] = _taken(generator)
            for network in (gan, discriminator):
                network.zero_grad()
        reals = discriminator(batch.reals.flatten(0, 1))
        made = discriminator(torch.cat(fakes).detach())
        d_loss = losses.discriminator_loss(reals, made)
        d_loss.backward()
    gradients["discriminator"] = _taken(discriminator)
    discriminator.zero_grad()
    return Update({name: term.detach() for name, term in terms.items()}, gradients)


def _naive_sum(terms: dict[str, Tensor], weights: Weights, recipe: Recipe) -> Tensor:
    scale = dict.fromkeys(losses.CLASSIFIER_TERMS, recipe.compgan.classifier_scale)
    scale["adv"] = recipe.compgan.adversarial_scale
    return sum(getattr(weights, name) * scale.get(name, 1.0) * term for name, term in terms.items())


def naive_supervised(model: FaceClassifier, batch: Examples) -> list[Tensor]:
    """Three cross-entropies and `backward`."""
    with plain_maximum():
        logits = model.heads(F.dropout(model.features(batch.faces), 0.5))
        pairs = zip(logits, (batch.expression, batch.pose, batch.identity), strict=True)
        sum(F.cross_entropy(output, labels) for output, labels in pairs).backward()
        gradients = _taken(model)
        model.zero_grad()
    return gradients


def _softened(faces: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 2.0, 1.0], device=faces.device)
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(faces, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)


def _taken(network: nn.Module) -> list[Tensor]:
    return [p.grad for p in trainable(network)]


@contextlib.contextmanager
def plain_maximum() -> Iterator[None]:
    """LightCNN as its authors publish it: the maximum of a split, by torch's own autograd."""
    from compgan_core.nets.lightcnn import MFM

    ours = MFM.forward
    MFM.forward = lambda self, x: torch.maximum(*self.filter(x).chunk(2, dim=1))
    try:
        yield
    finally:
        MFM.forward = ours


# --- Measuring --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fp32_is_fp32() -> Iterator[None]:
    """No TF32 where float32 is claimed; then again torch's defaults."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = True


def distance(a: Update, b: Update) -> float:
    """The greatest, over networks, of the relative distance of all their gradients taken as one vector."""
    worst = 0.0
    for name, ours in a.gradients.items():
        apart = torch.stack([(x - y).norm() for x, y in zip(ours, b.gradients[name], strict=True)]).norm()
        worst = max(worst, float(apart / torch.stack([x.norm() for x in ours]).norm()))
    return worst


def ratio(name: str, above: list[float], below: list[float]) -> Figure:
    return figure(name, "times", [a / b for a, b in zip(above, below, strict=True)])


def peak_gb(world: World, device: torch.device) -> float:
    """The most that one step holds on a GPU beside weights and inputs; 0 on a CPU, where nothing tells."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    world.eager()
    return (torch.cuda.max_memory_allocated(device) - before) / 1e9
