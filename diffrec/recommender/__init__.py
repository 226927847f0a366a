"""What diffusion models and baselines share: the contract `score` / `recommend`, and how families of models keep it."""

from diffrec.recommender.base import Recommender, count_parameters
from diffrec.recommender.closed_form import ClosedFormRecommender
from diffrec.recommender.diffusion import DiffusionRecommender, HistoryConditioner, Space
from diffrec.recommender.learning_rates import EpochDecay, EpochRates, LrSchedule, StepRates

__all__ = [
    "ClosedFormRecommender",
    "DiffusionRecommender",
    "EpochDecay",
    "EpochRates",
    "HistoryConditioner",
    "LrSchedule",
    "Recommender",
    "Space",
    "StepRates",
    "count_parameters",
]
