"""The documents agree with the code; files, functions and exceptions stay readable."""

import ast
import re
import subprocess
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedd.catalog.catalog import AnyRecipe, read_catalog
from embedd.catalog.recipe import Recipe
from embedd.cli import COMMANDS
from embedd.config import SETTINGS
from embedd.engine.fake_painter import INFO as IMAGE_INFO
from embedd.metrics import Metrics, describe_cache
from embedd.modelfile import PARAMETERS
from embedd.names import parse_model_name
from embedd.options import IGNORED
from embedd.scheduler.gauges import describe_models
from embedd.scheduler.records import ModelStatus
from embedd.server.app import DIALECTS
from tests.documents import DOCS, README, ROOT, USER_DOCUMENTS, find_links, read, slugs_of
from tests.unit.engine.fake_worker import INFO, SPEC
from tests.unit.painter.images import make_image_spec

CONTRIBUTING = read(ROOT / "CONTRIBUTING.md")
DOCUMENTS = [*USER_DOCUMENTS, *(ROOT / name for name in ("CONTRIBUTING.md", "DECISIONS.md"))]
RECIPES = read_catalog().search("")
MODULES = sorted((ROOT / "embedd").rglob("*.py"))
CLOSED = {"reason", "source", "awaited"}  # labels of metrics
# Words of a private dialect, and metaphors that a stranger does not know.
BANNED = re.compile(
    r"\b(rung|ladder|whoever|nobody|somebody|anybody|everybody|bitten|deaf|lent|told|spoil\w*"
    r"|doors?|troubles?|blame\w*)\b",
    re.IGNORECASE,
)
# Calls whose value holds the time: a parameter of it names its test otherwise in each process of
# pytest-xdist that starts in another second, and no test runs at all.
CLOCKS = re.compile(
    r"gzip\.compress\((?!.*\bmtime=)|time\.\w+\(|(datetime\.)?datetime\.(now|utcnow|today)\(",
    re.DOTALL,
)
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
MAX_README_LINES = 200


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
def test_every_setting_is_documented(setting: str) -> None:
    rows = [
        row
        for row in read(DOCS / "settings.md").splitlines()
        if row.startswith(f"| `EMBEDD_{setting}` |")
    ]
    assert [row.count(" | ") for row in rows] == [2], rows


@pytest.mark.parametrize("path", USER_DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_a_setting_or_route_that_does_not_exist(path: Path) -> None:
    settings = set(re.findall(r"(?<!_)EMBEDD_([A-Z_]+)", read(path)))
    assert settings <= {setting.name for setting in SETTINGS}
    assert documented_routes(path) <= all_routes()


def test_every_route_is_documented() -> None:
    assert documented_routes(DOCS / "api.md") == all_routes()


def documented_routes(path: Path) -> set[str]:
    return set(re.findall(r"`((?:GET|POST|DELETE|HEAD) /[^`]*)`", read(path)))


def all_routes() -> set[str]:
    return {f"{route.method} {route.path}" for dialect in DIALECTS for route in dialect.routes}


def test_the_table_of_metrics_is_what_is_exposed() -> None:
    """Names, their labels, and all values of the labels that are closed sets."""
    documented: dict[str, tuple[set[str], set[str]]] = {}
    for line in read(DOCS / "metrics.md").splitlines():
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


def test_every_command_is_documented_and_the_other_way_round() -> None:
    documented = set(re.findall(r"^\| `embedd ([a-z]+)", read(DOCS / "cli.md"), re.MULTILINE))
    assert documented == set(COMMANDS)


def catalogue_row(recipe: AnyRecipe) -> str:
    """Return the row of a recipe in the table of short names."""
    tags = ", ".join(f"`{tag}`" for tag in recipe.tags)
    return f"| `{recipe.name}` | {recipe.description} | {tags} | {recipe.license} |"


def test_the_table_of_bulk_has_every_option_of_the_command() -> None:
    from embedd.cli.bulk.command import bulk

    options = {
        next((one for one in parameter.opts if len(one) == 2), parameter.opts[0])
        for parameter in bulk.params
        if parameter.param_type_name == "option"
    }
    rows = re.findall(r"^\| (`-.*?) \| .* \|$", read(DOCS / "bulk.md"), re.MULTILINE)
    documented = {found for row in rows for found in re.findall(r"`(--?[a-z-]+)", row)}
    assert documented == options


def test_the_table_of_short_names_is_the_catalogue() -> None:
    section = read(DOCS / "models.md").split("\n## Short names\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [catalogue_row(recipe) for recipe in RECIPES]


def test_the_models_in_the_readme_are_those_of_the_catalogue() -> None:
    row = re.compile(r"^\| `([^`]+)` \|[^|]*\| *([\d,]*) \| ([\d,]+) \|$", re.MULTILINE)
    rows = row.findall(read(README))
    assert len(rows) >= 4
    for name, dimensions, tokens in rows:
        offer = read_catalog().find(parse_model_name(name))
        assert offer is not None, name
        recipe: Recipe = offer.recipe
        assert int(tokens.replace(",", "")) == (recipe.num_ctx or recipe.context_length), name
        assert dimensions in {"", f"{recipe.dimensions:,}"}, name


def test_every_parameter_with_an_effect_is_documented() -> None:
    section = read(DOCS / "models.md").split("\n## Modelfile\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    documented = {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert documented == PARAMETERS - IGNORED - {"num_batch"}


def test_every_picture_is_shown() -> None:
    shown = {target for path in DOCS.glob("*.md") for target in find_links(read(path))}
    assert {f"images/{path.name}" for path in (DOCS / "images").iterdir()} <= shown


def test_the_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in find_links(read(path)):
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.is_file(), target
        # The site is made of the chapters alone.
        assert path.parent != DOCS or found.is_relative_to(DOCS), target
        assert not anchor or anchor in slugs_of(read(found)), target


def test_every_chapter_is_linked_from_the_readme_and_the_index() -> None:
    chapters = {path.name for path in DOCS.glob("*.md")} - {"index.md"}
    assert {Path(target.partition("#")[0]).name for target in find_links(read(README))} >= chapters
    assert set(find_links(read(DOCS / "index.md"))) == chapters


def messages_of_the_code() -> str:
    """Every text in embedd's modules, a line each, with … in the place of values."""
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Constant(value=str(text)):
                    found.append(text.replace("{}", "…"))
                case ast.JoinedStr(values=parts):
                    constants = (getattr(part, "value", None) for part in parts)
                    found.append("".join(c if isinstance(c, str) else "…" for c in constants))
    return "\n".join(found)


def test_every_message_that_is_explained_is_one_of_the_code() -> None:
    messages = messages_of_the_code()
    explained = re.findall(r"^### (`+)(.+)\1$", read(DOCS / "troubleshooting.md"), re.MULTILINE)
    assert len(explained) >= 20
    assert [message for _, message in explained if message not in messages] == []


def test_every_make_target_that_is_documented_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    documents = "\n".join(read(path) for path in DOCUMENTS)
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


def calls_at_import(node: ast.AST) -> Iterator[str]:
    """The calls that importing a module makes, those of decorators among them."""
    if isinstance(node, ast.Call):
        yield ast.unparse(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        children: Iterable[ast.AST] = (*node.decorator_list, node.args)
    else:
        children = [node.args] if isinstance(node, ast.Lambda) else ast.iter_child_nodes(node)
    for child in children:
        yield from calls_at_import(child)


def test_every_process_gives_the_tests_the_same_names() -> None:
    for path in tracked_files("tests/*.py"):
        calls = calls_at_import(ast.parse(read(path)))
        assert not [call for call in calls if CLOCKS.match(call)], path


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
    paths = tracked_files("embedd", "docs/*.md", "README.md", "CONTRIBUTING.md", "DECISIONS.md")
    assert len(paths) > 100
    lines = [
        f"{path}:{number}: {line}"
        for path in paths
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1)
        if BANNED.search(line)
    ]
    assert lines == []
