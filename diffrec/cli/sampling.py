"""The options that say how a diffusion model samples, the same for every command that uses a trained model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffrec.recommender import Recommender


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """One option a setting."""
    parser.add_argument("--num-inference-steps", type=int, metavar="N", help="steps of a diffusion model")
    parser.add_argument("--guidance-scale", type=float, metavar="W", help="pull towards the history; 1 is none")
    text = "of diffusers: DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler, ..."
    parser.add_argument("--scheduler", metavar="NAME", help=text)
    text = "noise of DDIMScheduler, from 0, none (the default of that scheduler), to 1, that of DDPM"
    parser.add_argument("--eta", type=float, metavar="X", help=text)
    parser.add_argument("--num-samples", type=int, metavar="N", help="average the scores of so many samples")


def loaded(args: argparse.Namespace) -> Recommender:
    """The model that was asked for, sampling as was asked for; a wrong name is told before torch is imported."""
    from diffrec.zoo.finding import find_entry

    find_entry(args.model, offline=args.offline)
    from diffrec.zoo import load

    return load(
        args.model,
        offline=args.offline,
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        scheduler=args.scheduler,
        eta=args.eta,
        num_samples=args.num_samples,
    )
