"""Busy models share the cores, one at least each; a share is told only when it changes."""

from embedd.engine.serving.cores import CoreShares


class Model:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[int] = []


def enter(cores: CoreShares, *models: Model) -> None:
    for model in models:
        cores.enter(model, model.told.append)


def test_a_lone_model_has_all_cores_and_is_told_nothing() -> None:
    cores, model = CoreShares(8), Model()
    for _ in range(3):
        enter(cores, model)
        cores.leave(model)
    assert model.told == []


def test_two_busy_models_share_and_get_the_cores_back() -> None:
    cores, first, second = CoreShares(8), Model(), Model()
    enter(cores, first, second)
    cores.leave(second)
    assert first.told == [4, 8]
    assert second.told == [4]
    enter(cores, second)
    assert second.told == [4]


def test_more_models_than_cores_have_one_each() -> None:
    cores, models = CoreShares(2), [Model() for _ in range(5)]
    enter(cores, *models)
    assert {model.told[-1] for model in models} == {1}


def test_a_model_that_is_not_busy_may_leave() -> None:
    CoreShares(2).leave(Model())
