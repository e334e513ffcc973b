"""Which lines of a layer's progress are sent."""

from embedd.library.progress import Paced
from embedd.ollama_api import ProgressLine


def line(completed: int | None = None, status: str = "pulling a", total: int = 10) -> ProgressLine:
    return ProgressLine(status=status, digest="sha256:a", total=total, completed=completed)


def test_lines_of_a_layer_are_apart_grow_and_end_with_the_whole() -> None:
    now, sent = [0.0], list[ProgressLine]()
    paced = Paced(sent.append, clock=lambda: now[0])
    for moment, completed in [
        (0.0, None), (0.01, 1), (0.061, 2), (0.1, 3), (0.2, 1), (0.3, 2), (0.4, 5), (0.41, 10),
        (0.5, 10), (0.6, 3),
    ]:  # fmt: skip
        now[0] = moment
        paced(line(completed))
    assert [step.completed for step in sent] == [None, 2, 5, 10]
    assert all(step.total == 10 and step.digest for step in sent)


def test_layers_do_not_wait_for_each_other_and_other_lines_pass() -> None:
    sent = list[ProgressLine]()
    paced = Paced(sent.append, clock=lambda: 0.0)
    steps = [ProgressLine(status="pulling manifest"), line(), line(10, "pulling b"), line(10)]
    for step in [*steps, ProgressLine(status="success"), ProgressLine(status="success")]:
        paced(step)
    assert sent == [*steps, ProgressLine(status="success"), ProgressLine(status="success")]


def test_an_empty_layer_is_sent_once() -> None:
    sent = list[ProgressLine]()
    paced = Paced(sent.append, clock=lambda: 0.0)
    paced(line(0, total=0))
    paced(line(0, total=0))
    assert sent == [line(None, total=0)]
