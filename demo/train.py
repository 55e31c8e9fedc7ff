"""Train the weights of the demo model from a seed, in ten stages."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cnpp_core.diffusion.schedule import LATENT_SCALE, NoiseSchedule
from ..cnpp_core.network.controlnet import ControlNet
from ..cnpp_core.network.unet import UNet
from ..cnpp_core.training.batch import TrainingBatch, dropped, noised
from ..cnpp_core.training.denoiser import Denoiser
from ..cnpp_core.training.initialise import zero_last_layers
from ..cnpp_core.training.losses import DiffusionLoss, Recipe, layout_weights
from ..cnpp_core.training.trainer import TrainSettings
from .autoencoder import Autoencoder, reconstruction_loss
from .model import CONFIG, WEIGHTS, load_part, save_part
from .pairs import TEXT_DROPOUT, Pairs
from .plusplus import train_plusplus
from .segmenter import Segmenter
from .stage import SCENES, draw_scenes, encode, to_model, train
from .text import TextEncoder, tokenize

log = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)

LATENT_NOISE = 0.03  # of the latents' deviation
# bfloat16 halves the autoencoder's time on processors that have it; the UNet gains nothing.
AUTOENCODER = TrainSettings(
    steps=9000, learning_rate=2e-3, weight_decay=1e-4, autocast=torch.bfloat16
)
DECODER = TrainSettings(steps=1500, learning_rate=5e-4, weight_decay=0.0)
UNET = TrainSettings(steps=1300, learning_rate=1e-3, ema_decay=0.995)
REFINE = TrainSettings(steps=800, learning_rate=6e-4, ema_decay=0.995, seed=1)
RECOLOUR = TrainSettings(steps=700, learning_rate=5e-4, ema_decay=0.995, seed=2)
CONTROLNET = TrainSettings(steps=2500, learning_rate=5e-4, ema_decay=0.995)
SEGMENTER = TrainSettings(steps=900, learning_rate=2e-3, ema_decay=0.995)
MOST_BLUR = 0.7  # of the latents' deviation
NOISE_OFFSET = 0.25  # four times what 16 x 16 independent values leave of their mean


def main(argv: Sequence[str] = ()) -> int:
    """`demo train`: train all stages or the named ones and write their weights."""
    parser = argparse.ArgumentParser(
        prog="demo train", description="Train the demo model's weights anew."
    )
    parser.add_argument(
        "--stage",
        choices=STAGES,
        nargs="+",
        default=list(STAGES),
        help="only these; a stage reads the weights of the ones before it from --out",
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the weights")
    parser.add_argument("--scenes", type=int, default=SCENES, help="pictures to train with")
    parser.add_argument(
        "--speed-up", type=int, default=1, metavar="N", help="a trial with an Nth of the steps"
    )
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.stage:
        began = time.perf_counter()
        STAGES[name](options.out, options.scenes, options.speed_up)
        log.info("%s: done in %.1f minutes", name, (time.perf_counter() - began) / 60)
    return 0


def train_autoencoder(out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """Stage 1: both halves, with noise between them.

    A sampler never hits a latent exactly, so the decoder must not hang on its last digits; the
    weak pull towards zero keeps the encoder from outgrowing the noise.
    """
    images = draw_scenes(scenes).images
    torch.manual_seed(AUTOENCODER.seed)
    autoencoder = _channels_last(Autoencoder())

    def through_noise(generator: torch.Generator) -> Tensor:
        batch = _turned(images, 8, generator)
        latent = autoencoder.encoder(batch)
        noise = LATENT_NOISE * latent.detach().std() * torch.randn_like(latent)
        compact = latent.float().square().mean()
        return reconstruction_loss(autoencoder.decoder(latent + noise), batch) + 1e-4 * compact

    averaged = train(autoencoder, AUTOENCODER, through_noise, speed_up)
    averaged.normalise(to_model(images[:500]))
    save_part("autoencoder", averaged.state_dict(), out)


def train_decoder(out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """Stage 2: the latents stay as they are, and the decoder learns to read them exactly."""
    images = draw_scenes(scenes).images
    autoencoder = _channels_last(load_part("autoencoder", Autoencoder(), out))
    autoencoder.decoder.requires_grad_(True)

    def exact(generator: torch.Generator) -> Tensor:
        batch = _turned(images, 8, generator)
        return reconstruction_loss(autoencoder.decoder(autoencoder.encoder(batch)), batch)

    polished = train(autoencoder, DECODER, exact, speed_up)
    save_part("autoencoder", polished.state_dict(), out)


def train_unet(out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """Stage 3: the denoising UNet together with its text encoder."""
    torch.manual_seed(UNET.seed)
    unet, text_encoder = UNet(CONFIG), TextEncoder()
    zero_last_layers(unet)
    _train_denoiser(unet, text_encoder, UNET, 0.0, out, scenes, speed_up)


def refine_unet(out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """Stage 4: both go on from where they are, at a lower rate."""
    _train_denoiser(*_load_denoiser(out), REFINE, 0.0, out, scenes, speed_up)


def recolour_unet(out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """Stage 5: once more with offset noise, to take the colours from the prompt.

    In a trial, weights that count the noisiest steps up to 25 times, from the first of 3,000 steps
    and with an offset of 0.1, did no better.
    """
    _train_denoiser(*_load_denoiser(out), RECOLOUR, NOISE_OFFSET, out, scenes, speed_up)


def train_canny_controlnet(out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """Stage 6: a ControlNet for the Canny edges of a picture."""
    _train_controlnet("canny", out, scenes, speed_up)


def train_seg_controlnet(out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """Stage 7: a ControlNet for the segmenter's condition image, what is shape and what ground."""
    _train_controlnet("seg", out, scenes, speed_up)


def train_segmenter(out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """Stage 8: what shape is and what ground, also in pictures that are not finished.

    Half of the batches are decoded from latents with noise, as the x0 of a sampling step has it:
    in the middle of a sampling shapes are dents and smears.
    """
    batch = draw_scenes(scenes)
    autoencoder = load_part("autoencoder", Autoencoder(), out)
    torch.manual_seed(SEGMENTER.seed)
    segmenter = Segmenter()

    def smeared(images: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            latents = autoencoder.encode(images) * LATENT_SCALE
            side = latents.shape[-1] // (1 + int(torch.randint(2, (1,), generator=generator)))
            noise = torch.randn(*latents.shape[:2], side, side, generator=generator)
            noise = F.interpolate(noise, latents.shape[-2:], mode="bicubic")
            strength = MOST_BLUR * torch.rand(len(images), 1, 1, 1, generator=generator)
            return autoencoder.decode((latents + strength * noise) / LATENT_SCALE).clamp(-1, 1)

    def loss(generator: torch.Generator) -> Tensor:
        turns, smear, *chosen = torch.randint(
            len(batch.images), (18,), generator=generator
        ).tolist()
        images = torch.rot90(to_model(batch.images[chosen]), turns % 4, (2, 3))
        masks = torch.rot90(batch.masks[chosen], turns % 4, (2, 3))
        if smear % 2:
            images = smeared(images, generator)
        return F.cross_entropy(segmenter.logits(images / 2 + 0.5), masks[:, 0].long())

    averaged = train(segmenter, SEGMENTER, loss, speed_up)
    save_part("segmenter", averaged.state_dict(), out)


def train_canny_controlnetpp(out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """Stage 9: ControlNet++ for edges."""
    train_plusplus("canny", out, scenes, speed_up)


def train_seg_controlnetpp(out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """Stage 10: ControlNet++ for what is shape and what ground."""
    train_plusplus("seg", out, scenes, speed_up)


STAGES = {
    "autoencoder": train_autoencoder,
    "decoder": train_decoder,
    "unet": train_unet,
    "refine": refine_unet,
    "recolour": recolour_unet,
    "controlnet_canny": train_canny_controlnet,
    "controlnet_seg": train_seg_controlnet,
    "segmenter": train_segmenter,
    "controlnetpp_canny": train_canny_controlnetpp,
    "controlnetpp_seg": train_seg_controlnetpp,
}


def _load_denoiser(out: Path) -> tuple[UNet, TextEncoder]:
    unet = load_part("unet", UNet(CONFIG), out)
    text_encoder = load_part("text_encoder", TextEncoder(), out)
    return unet.requires_grad_(True), text_encoder.requires_grad_(True)


def _train_denoiser(
    unet: UNet,
    text_encoder: TextEncoder,
    settings: TrainSettings,
    noise_offset: float,
    out: Path,
    scenes: int,
    speed_up: int,
) -> None:
    batch = draw_scenes(scenes)
    latents = encode(batch.images, out)
    tokens = torch.tensor([tokenize(caption) for caption in batch.captions])
    empty = torch.tensor([tokenize("")])

    def draw(generator: torch.Generator) -> TrainingBatch:
        chosen = torch.randint(len(latents), (32,), generator=generator)
        context = text_encoder(torch.cat([tokens[chosen], empty]))
        without = dropped(len(chosen), TEXT_DROPOUT, generator)
        return TrainingBatch(latents[chosen], context[:-1], empty=context[-1:], dropped=without)

    both = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    schedule = NoiseSchedule.scaled_linear()
    states = noised(draw, schedule, noise_offset)
    recipe = Recipe(Denoiser(unet, schedule), states, {"diffusion": (1.0, DiffusionLoss())})
    for name, network in train(both, settings, recipe, speed_up).items():
        save_part(name, network.state_dict(), out)


def _train_controlnet(condition: str, out: Path, scenes: int, speed_up: int) -> None:
    """Train from the UNet's encoder; UNet and text stay as they are.

    Without offset in the noise: with it a ControlNet had learnt nothing after 800 steps. And with
    weights for the noisiest timesteps: without them one had learnt nothing after 700 steps, where
    with them it followed its edges already.
    """
    pairs = Pairs.of(condition, out, scenes)
    unet = load_part("unet", UNet(CONFIG), out).requires_grad_(False)
    schedule = NoiseSchedule.scaled_linear()
    torch.manual_seed(CONTROLNET.seed)
    controlnet = ControlNet.from_unet(unet)
    denoiser, loss = Denoiser(unet, schedule, controlnet), DiffusionLoss(layout_weights(schedule))
    recipe = Recipe(denoiser, noised(pairs.draw(16), schedule), {"diffusion": (1.0, loss)})
    averaged = train(controlnet, CONTROLNET, recipe, speed_up)
    save_part(f"controlnet_{condition}", averaged.state_dict(), out)


def _channels_last(module: Module) -> Module:
    """The layout in which a CPU convolves fastest; pictures come in it too (`_turned`)."""
    return nn.utils.convert_conv2d_weight_memory_format(module, torch.channels_last)


def _turned(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Some pictures, turned and perhaps mirrored together: the world has no up."""
    turns, mirrored, *chosen = torch.randint(
        len(images), (count + 2,), generator=generator
    ).tolist()
    batch = torch.rot90(to_model(images[chosen]), turns % 4, (2, 3))
    batch = batch.flip(3) if mirrored % 2 else batch
    return batch.contiguous(memory_format=torch.channels_last)
