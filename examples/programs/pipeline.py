"""Will a parcel come late? Learned here, scored by a program: linear.c, or linear.R."""

from datetime import datetime
from pathlib import Path

import numpy as np

from penstock import Event, Pipeline, Program, better, count, every, key, source, steps

PROGRAM = Path(__file__).with_name("linear")


class Parcel(Event):
    parcel_id: str
    depot: str = key()
    at: datetime
    weight: float
    distance: float | None


parcel = source(Parcel, id="parcel_id", time="at")
complaint = source("complaint", key="parcel_id", time="at")

parcels_1h = count(parcel, window="1h")


def fit(data):
    """Logistic regression by Newton's steps; the program gets the bias and a weight a column."""
    x = np.column_stack([np.ones(len(data.x)), np.nan_to_num(data.x)])
    weights = np.zeros(x.shape[1])
    for _ in range(20):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        curve = x.T @ (x * (p * (1 - p))[:, None]) + 1e-3 * np.eye(x.shape[1])
        weights += np.linalg.solve(curve, x.T @ (data.y - p) - 1e-3 * weights)
    return Program(PROGRAM, model="\n".join(map(repr, weights.tolist())).encode())


late = Pipeline(
    request=parcel,
    label=complaint,
    wait="7d",
    features=[parcel.weight, parcel.distance, parcels_1h],
    fit=fit,
    train=every("7d"),
    gate=better("log_loss"),
    release=steps(shadow="1d", canary=(10,)),
)
