"""When a server is ready."""

from embedd.server.ops.readiness import Readiness


def test_a_server_without_models_to_load_is_ready() -> None:
    assert Readiness().reason() is None


def test_a_server_is_ready_when_all_its_models_were_loaded() -> None:
    readiness = Readiness(["a", "b"])
    assert readiness.reason() == "2 of 2 models are not in memory yet"
    readiness.mark_loaded("a")
    readiness.mark_failed("b")
    assert readiness.reason() == (
        "1 of 2 models are not in memory yet; 1 could not be loaded: see the log"
    )
    readiness.mark_loaded("b")
    assert readiness.reason() is None
