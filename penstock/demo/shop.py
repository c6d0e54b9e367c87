"""demo: the shop's pipeline file: will this visitor buy, and is this order fraud? As a user writes one."""

import math
from datetime import datetime
from typing import Any

from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from penstock import (
    Data,
    Event,
    Pipeline,
    better,
    count,
    drift,
    every,
    feature,
    key,
    mean,
    missing,
    pii,
    rate,
    source,
    steps,
)


class View(Event):
    view_id: str
    visitor: str = pii(key())
    at: datetime
    category: str
    price: float
    device: str
    previous_page: str | None
    campaign: str


class Purchase(Event):
    view_id: str = key()
    visitor: str = pii()
    at: datetime
    price: float


class Order(Event):
    order_id: str
    customer: str = pii(key())
    at: datetime
    amount: float
    country: str
    card_days: int


view = source(View, id="view_id", time="at")
purchase = source(Purchase, id="view_id", time="at")
order = source(Order, id="order_id", time="at")
chargeback = source("chargeback", key="order_id", time="at")

# Will the visitor buy? The truth comes within the hour.

views_1h = count(view, window="1h")
bought_1d = count(purchase, window="1d", entity="visitor")
TEXTS = ("category", "device", "previous_page")


@feature
def log_price(price: float) -> float:
    return math.log(price)


def fit_buy(data: Data) -> Any:
    """`model` is one of linear, trees, coarse; `campaign` says whether to use the campaign's code."""
    texts = TEXTS + (("campaign",) if data.params["campaign"] else ())
    numbers = [name for name in data.names if name not in TEXTS and name != "campaign"]
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), data.at(*texts)),
        (make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()), data.at(*numbers)),
    )
    models = {
        "linear": LogisticRegression(max_iter=500),
        "trees": HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=8, random_state=data.seed),
        "coarse": DecisionTreeClassifier(max_depth=1, random_state=data.seed),
    }
    return make_pipeline(columns, models[data.params["model"]]).fit(data.x, data.y)


buy = Pipeline(
    request=view,
    label=purchase,
    wait="1h",
    features=[
        view.category,
        log_price,
        view.device,
        view.previous_page,
        view.campaign,
        views_1h,
        bought_1d,
    ],
    fit=fit_buy,
    params={"model": "linear", "campaign": False},
    train=every(window="1d", at_least=900, on_alert="drift"),
    gate=better("log_loss", slices=["device"]),
    release=steps(shadow="6h", canary=(20, 50), hold="4h", guard="12h", flips=0.5),
    watch=[missing("previous_page", "6h") < 0.05, drift("log_price", "1d") < 2.0],
)

# Is the order fraud? The truth comes days later, as a chargeback, or never.

orders_1d = count(order, window="1d")
usual_amount = mean(order.amount, window="7d")


@feature
def amount_ratio(amount: float, usual_amount: float | None) -> float:
    return amount / usual_amount if usual_amount else 1.0


@feature
def new_card(card_days: int) -> bool:
    return card_days < 3


def fit_fraud(data: Data) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(data.x, data.y)


fraud = Pipeline(
    request=order,
    label=chargeback,
    wait="3d",
    features=[order.amount, order.card_days, new_card, orders_1d, amount_ratio],
    fit=fit_fraud,
    train=every("6d", at_least=500),
    gate=better("log_loss"),
    release=steps(shadow="12h", canary=(10, 50), hold="6h", guard="12h"),
    watch=[rate("positive", "1h", at_least=50) < 0.10],
    threshold=0.3,
)
