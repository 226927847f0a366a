"""Few-step students beside their teacher, all asked the test cases with several draws of the noise.

diffrec fit -c dreamrec-student-ml-100k --run-dir runs/walk
diffrec fit -c dreamrec-student-ml-100k --run-dir runs/consistency \\
    --trainer.callbacks.Distillation.objective=consistency
python benchmarks/few_step.py dreamrec.ml-100k walk=runs/walk/checkpoints/best.ckpt \\
    consistency=runs/consistency/checkpoints/best.ckpt --output benchmarks/few_step.json

The teacher walks as it is kept, and in few plain steps of three samplers; a student as it is kept, and in 2 and 4 steps
of its own scheduler and of a consistency model ("lcm"). Every point is the mean of NDCG@10 over the draws, with the
standard error of that mean, and `share` what it is of the teacher's own. Cases are the same for all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from diffrec.bench.evaluate import evaluate, per_user
from diffrec.bench.provenance import code_version
from diffrec.bench.subject import Subject
from diffrec.bench.tradeoff import Setting, own_setting, samplers_of, sampling
from diffrec.cli.subjects import subject_of
from diffrec.recommender import DiffusionRecommender

SAMPLERS, STEPS, METRIC = ("posterior-mean", "ddpm", "ddim"), (1, 2, 4), "ndcg@10"


def measured(subject: Subject, setting: Setting, draws: int) -> dict[str, object]:
    """One way to sample, with seeds 0..draws-1."""
    model, cutoffs = subject.model, subject.protocol.cutoffs
    assert isinstance(model, DiffusionRecommender)
    values = []
    with sampling(model, setting):
        for seed in range(draws):
            asked = evaluate(model, subject.split.test, cutoffs, batch_size=subject.batch_size, seed=seed)
            values.append(float(np.nanmean(per_user(asked, METRIC))))
        calls = model.denoiser_calls
    error = float(np.std(values, ddof=1) / np.sqrt(draws))
    return {**asdict(setting), "denoiser_calls": calls, METRIC: float(np.mean(values)), "standard_error": error}


def compare(teacher: Subject, students: Mapping[str, Subject], draws: int) -> list[dict[str, object]]:
    """The teacher as it is, without noise on the way, in few steps; the students as they are, in few steps."""
    assert isinstance(teacher.model, DiffusionRecommender)
    own = own_setting(teacher.model)
    there = SAMPLERS if "ddim" in samplers_of(teacher.model) else ("euler",)  # of a flow
    settings = [own, *(replace(own, sampler=name) for name in there)]
    settings += [replace(own, sampler=name, num_inference_steps=n) for n in STEPS for name in there]
    points = [{"model": "teacher", **measured(teacher, setting, draws)} for setting in dict.fromkeys(settings)]
    for name, student in students.items():
        own = own_setting(student.model)
        ways = [replace(own, sampler=way, num_inference_steps=n) for n in STEPS[1:] for way in (own.sampler, "lcm")]
        points += [{"model": name, **measured(student, setting, draws)} for setting in dict.fromkeys([own, *ways])]
    best = points[0][METRIC]
    return [{**point, "share": point[METRIC] / best} for point in points]  # pyright: ignore[reportOperatorIssue]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="a zoo entry or a checkpoint of a run")
    parser.add_argument("students", nargs="+", metavar="NAME=STUDENT", help="the same, with the name that it gets")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    named = dict(student.split("=", 1) for student in args.students)
    teacher, *students = (subject_of(name, None, None, 0, 512) for name in (args.teacher, *named.values()))
    points = compare(teacher, dict(zip(named, students, strict=True)), args.draws)
    about = {"teacher": args.teacher, "dataset": teacher.dataset.name, "protocol": teacher.protocol.id}
    about |= {"code_version": code_version(), "cases": len(teacher.split.test), "draws": args.draws}
    for p in points:
        how = f"{p['model']:11} {p['sampler']:15} {p['num_inference_steps']:4} steps {p['denoiser_calls']:4} calls"
        print(f"{how}  {p[METRIC]:.4f} ± {p['standard_error']:.4f}  {p['share']:6.1%}")
    args.output.write_text(json.dumps({**about, "points": points}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
