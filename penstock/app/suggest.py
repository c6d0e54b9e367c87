"""app: what a pipeline file is, for those who propose features for it."""

from __future__ import annotations

import sys
import types

from penstock.app.pipeline import File
from penstock.feature import Answers, Declared
from penstock.feature.definition import language
from penstock.feature.definition.expression import Column
from penstock.feature.definition.meaning import OF_A_FILE
from penstock.feature.definition.suggest import Told
from penstock.record.codec import pack


def told(file: File, model: str) -> Told:
    """A file as proposals for one of its models see it."""
    plan, space = file.plan(model), vars(sys.modules[f"{OF_A_FILE}{file.code[:16]}"])
    modules = {n: one for n, one in space.items() if isinstance(one, types.ModuleType) and _own(one)}
    called = {n: one for n, one in space.items() if isinstance(one, Declared)}
    for name, module in modules.items():
        inner = {f"{name}.{n}": one for n, one in vars(module).items() if isinstance(one, Declared)}
        called |= {n: one for n, one in inner.items() if not any(one is other for other in called.values())}
    used = {one.topic: one for one in file.kept}
    return Told(
        sources={
            n: one for n, one in called.items() if one is used.get(one.topic) or isinstance(one, Answers)
        },
        request=plan.pipeline.request,
        label=plan.label.source,
        label_column=plan.pipeline.label.name if isinstance(plan.pipeline.label, Column) else "",
        words={name for name, one in vars(language).items() if space.get(name) is one},
        names=set(space),
        meanings={pack(one) for one in plan.features.meanings.values()},
    )


def _own(module: types.ModuleType) -> bool:
    return module.__name__.startswith(OF_A_FILE)
