"""The options that say how a diffusion model samples, the same for every command that uses a trained model."""

from __future__ import annotations

import argparse
from typing import TypedDict


class Sampling(TypedDict):
    """The settings of `Recommender.set_sampling`; None for what the entry keeps."""

    num_inference_steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    eta: float | None
    num_samples: int | None


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """One option a setting."""
    parser.add_argument("--num-inference-steps", type=int, metavar="N", help="steps of a diffusion model")
    parser.add_argument("--guidance-scale", type=float, metavar="W", help="pull towards the history; 1 is none")
    text = "of diffusers: DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler, ..."
    parser.add_argument("--scheduler", metavar="NAME", help=text)
    text = "noise of DDIMScheduler, from 0, none (the default of that scheduler), to 1, that of DDPM"
    parser.add_argument("--eta", type=float, metavar="X", help=text)
    parser.add_argument("--num-samples", type=int, metavar="N", help="average the scores of so many samples")


def sampling_of(args: argparse.Namespace) -> Sampling:
    """What was asked for, as `diffrec.load` takes it."""
    return Sampling(
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        scheduler=args.scheduler,
        eta=args.eta,
        num_samples=args.num_samples,
    )
