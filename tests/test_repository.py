"""The documents agree with the code; files, functions and exceptions stay readable."""

import ast
import re
import subprocess
import tokenize
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedd.cli import COMMANDS
from embedd.config import SETTINGS
from embedd.engine.fake_painter import INFO as IMAGE_INFO
from embedd.metrics import Metrics, describe_cache
from embedd.scheduler.gauges import describe_models
from embedd.scheduler.records import ModelStatus
from embedd.server.app import DIALECTS
from tests.unit.engine.fake_worker import INFO, SPEC
from tests.unit.painter.images import make_image_spec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
MODULES = sorted((ROOT / "embedd").rglob("*.py"))
CLOSED = {"reason", "source", "awaited"}  # labels of metrics
# Words of a private dialect, and metaphors that a stranger does not know.
BANNED = re.compile(
    r"\b(rung|ladder|whoever|nobody|somebody|anybody|everybody|bitten|deaf|lent|told|spoil\w*"
    r"|doors?|troubles?|blame\w*)\b",
    re.IGNORECASE,
)
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60


def cells(line: str) -> list[str]:
    """Of a row of a table."""
    return line.split("|")[1:-1]


def expose_everything() -> str:
    """Every metric with all labels that it can have."""
    metrics = Metrics()
    metrics.requests.labels("/", 200)
    metrics.request_seconds.labels("/")
    metrics.of_image_model("a")
    metrics.of_model("a").backend_failed("llama")
    embedder = ModelStatus(spec=SPEC, size=1, expires_in=1.0, info=INFO)
    painter = ModelStatus(spec=make_image_spec(), size=1, expires_in=1.0, info=IMAGE_INFO)
    metrics.watch(
        lambda: [
            *describe_models([embedder, painter], {"a": 1}),
            *describe_cache(size=1, entries=1, hits=1, misses=1),
        ]
    )
    return metrics.expose("")[0].decode()


def tracked_files(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    assert found, patterns
    return found


@pytest.mark.parametrize("setting", [setting.name for setting in SETTINGS])
def test_every_setting_is_in_the_readme(setting: str) -> None:
    assert f"| `EMBEDD_{setting}` |" in README


def test_the_readme_names_no_setting_that_does_not_exist() -> None:
    named = set(re.findall(r"(?<!_)EMBEDD_([A-Z_]+)", README))
    assert named <= {setting.name for setting in SETTINGS}


def test_every_route_is_in_the_readme_and_the_other_way_round() -> None:
    routes = {f"{route.method} {route.path}" for dialect in DIALECTS for route in dialect.routes}
    documented = set(re.findall(r"`((?:GET|POST|DELETE|HEAD) /[^`]*)`", README))
    assert documented == routes


def test_the_table_of_metrics_is_what_is_exposed() -> None:
    """Names, their labels, and all values of the labels that are closed sets."""
    documented: dict[str, tuple[set[str], set[str]]] = {}
    for line in README.splitlines():
        if line.startswith("| `embedd_"):
            names, labels, values = (set(re.findall(r"`(\w+)`", cell)) for cell in cells(line))
            documented |= dict.fromkeys(names, (labels, values))
    exposed: dict[str, tuple[set[str], set[str]]] = {}
    for family in text_string_to_metric_families(expose_everything()):
        for sample in family.samples:
            name = re.sub("_(bucket|sum|count)$", "", sample.name)
            labels, values = exposed.setdefault(name, (set(), set()))
            labels |= sample.labels.keys() - {"le"}
            values |= {sample.labels[label] for label in CLOSED & sample.labels.keys()}
    assert {name: exposed[name] for name in exposed if name.startswith("embedd_")} == documented


def test_no_route_is_claimed_twice() -> None:
    """Several routes may share a path, but one of them alone answers what the others refuse."""
    routes = [route for dialect in DIALECTS for route in dialect.routes]
    claims = Counter((one.method, one.path) for one in routes if one.accepts is None)
    assert [claim for claim, count in claims.items() if count > 1] == []
    assert {(one.method, one.path) for one in routes} == claims.keys()


def test_every_command_is_in_the_readme_and_the_other_way_round() -> None:
    documented = set(re.findall(r"^\| `embedd ([a-z]+)", README, re.MULTILINE))
    assert documented == set(COMMANDS)


def test_every_make_target_that_is_documented_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    documents = README + CONTRIBUTING
    targets = set(re.findall(r"(?m)(?:^|`)make ([a-z]+)", documents))
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_can_be_read_at_once(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
                assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"


def test_no_file_names_where_packages_are_downloaded() -> None:
    hosts = re.compile("|".join(["py" + r"pi\.org", "pythonhosted" + r"\.org", "npm" + r"js\.org"]))
    for path in tracked_files():
        text = path.read_text("utf-8", "replace")
        assert not hosts.search(text), path


def rows_of_places() -> list[tuple[str, str, str]]:
    """Question, file and name of each row of the table "Where is what"."""
    section = CONTRIBUTING.split("## Where is what")[1].split("\n## ")[0]
    return re.findall(r"^\| ([^|]+\?) \| `([^`]+)`: `([^`]+)` \|$", section, re.MULTILINE)


def defined_names(path: Path) -> set[str]:
    """Functions, methods, classes and constants of a module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
    return names


def test_the_table_of_places_has_twenty_questions() -> None:
    assert len(rows_of_places()) >= 20


@pytest.mark.parametrize(("question", "file", "name"), rows_of_places())
def test_what_the_table_of_places_names_exists(question: str, file: str, name: str) -> None:
    assert name in defined_names(ROOT / file), question


def test_every_lint_and_type_exception_has_a_reason_beside_it() -> None:
    allowed = re.compile(r"# (noqa: [A-Z0-9, ]+ - \S.*|type: ignore\[[a-z, -]+\]  # \S.*)")
    found = 0
    for path in tracked_files("*.py"):
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                exception = re.search(r"#\s*(noqa|type:\s*ignore).*", token.string)
                if token.type == tokenize.COMMENT and exception:
                    found += 1
                    assert allowed.fullmatch(exception[0]), f"{path}:{token.start[0]}"
    assert found


def test_code_and_documents_use_the_words_of_the_field() -> None:
    paths = tracked_files("embedd", "README.md", "CONTRIBUTING.md", "DECISIONS.md")
    assert len(paths) > 100
    lines = [
        f"{path}:{number}: {line}"
        for path in paths
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1)
        if BANNED.search(line)
    ]
    assert lines == []
