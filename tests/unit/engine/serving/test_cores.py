"""Computing models share the cores equally, one at least each; only changes are notified."""

from embedd.engine.serving.cores import CoreBudget


class Model:
    """Remembers the shares of which it was notified."""

    def __init__(self) -> None:
        self.shares: list[int] = []


def enter(cores: CoreBudget, *models: Model) -> None:
    for model in models:
        cores.enter(model, model.shares.append)


def test_a_lone_model_has_all_cores_and_is_not_notified() -> None:
    cores, model = CoreBudget(8), Model()
    for _ in range(3):
        enter(cores, model)
        cores.leave(model)
    assert model.shares == []


def test_two_busy_models_share_and_get_the_cores_back() -> None:
    cores, first, second = CoreBudget(8), Model(), Model()
    enter(cores, first, second)
    cores.leave(second)
    assert first.shares == [4, 8]
    assert second.shares == [4]
    enter(cores, second)
    assert second.shares == [4]


def test_more_models_than_cores_have_one_each() -> None:
    cores, models = CoreBudget(2), [Model() for _ in range(5)]
    enter(cores, *models)
    assert {model.shares[-1] for model in models} == {1}


def test_a_model_that_is_not_busy_may_leave() -> None:
    CoreBudget(2).leave(Model())
