"""The image with the default model, built by buildah and run without a container runtime."""

import json
import math
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USER = "10001"
ISOLATED = ("--isolation", "chroot")
PACKAGES = "python3,python3-venv,ca-certificates"  # what `python:…-slim` has of what is needed
# Behind a proxy with a certificate of its own, pip in the image needs them too.
OF_THIS_MACHINE = ("/etc/ssl/certs", "/etc/pip.conf")

# Run in the image, as its user: serves until a text is embedded, and ends the server.
SESSION = """
id -u
touch /opt/embedd/written 2>/dev/null && echo written
embedd serve --load all-minilm &
trap "kill $!" EXIT
timeout 300 sh -c 'until embedd health --ready >/dev/null 2>&1; do sleep 0.2; done'
embedd embed all-minilm 'Why is the sky blue?'
trap - EXIT
kill $!
wait $! && echo stopped
"""

# Run as root without a network: makes the root in $1 read-only, but for /tmp and /data, then runs
# the other words there as the user of the image.
READ_ONLY = f"""
ip link set lo up
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount -t tmpfs -o uid={USER},gid={USER} tmpfs "$1/data"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
exec chroot --userspec={USER}:{USER} "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container of the image: its name, its root on this machine, the variables of the image."""

    name: str
    root: str
    variables: list[str]


@pytest.fixture(scope="session")
def storage() -> Iterator[Path]:
    """Make the folder of images and containers; some 3 GB, removed at the end."""
    for tool in ("buildah", "debootstrap", "unshare", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root makes a base and mounts a container")
    with tempfile.TemporaryDirectory(prefix="embedd-image-") as name:
        yield Path(name)


def run(*command: str | Path) -> str:
    """What *command* prints; its exit status is 0."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


@pytest.fixture(scope="session")
def buildah(storage: Path) -> tuple[str, ...]:
    """Words that every command of buildah begins with."""
    folders = ("--root", str(storage / "graph"), "--runroot", str(storage / "run"))
    return ("buildah", "--storage-driver", "vfs", *folders)


@pytest.fixture(scope="session")
def base(storage: Path, buildah: tuple[str, ...]) -> str:
    """A small Debian with Python as an image, in the place of the one from a registry."""
    system = storage / "system"
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", system)
    container = run(*buildah, "from", "scratch")
    run(*buildah, "add", "--quiet", container, system, "/")
    run(*buildah, "commit", "--quiet", "--rm", container, "localhost/base")
    shutil.rmtree(system)
    return "localhost/base"


@pytest.fixture(scope="session")
def container(buildah: tuple[str, ...], base: str) -> Container:
    """Build the image that holds the default model, and make a container of it."""
    ignore = "deploy/Dockerfile.dockerignore"  # which Docker finds by its name
    volumes = [f"--volume={path}:{path}:ro" for path in OF_THIS_MACHINE if Path(path).exists()]
    build = (*ISOLATED, "--format", "docker", "--ignorefile", ignore, "--build-arg", f"BASE={base}")
    target = ("--target", "with-model", "--file", "deploy/Dockerfile", "--tag", "localhost/embedd")
    run(*buildah, "build", *build, *volumes, *target, ".")
    name = run(*buildah, "from", "localhost/embedd")
    config = json.loads(run(*buildah, "inspect", name))["Docker"]["config"]
    return Container(name=name, root=run(*buildah, "mount", name), variables=config["Env"])


def check_session(printed: str) -> None:
    """Check what `SESSION` printed: user, one vector, the end of the server; nothing written."""
    user, vector, end = printed.splitlines()
    numbers = json.loads(vector)
    assert (user, len(numbers), end) == (USER, 384, "stopped")
    assert math.isclose(math.hypot(*numbers), 1, abs_tol=1e-5)


def test_the_user_of_the_image_serves_the_default_model(
    buildah: tuple[str, ...], container: Container
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"EMBEDD_HOST=127.0.0.1:{free.getsockname()[1]}"
    words = (*ISOLATED, "--env", address, container.name, "--", "sh", "-ec", SESSION)
    check_session(run(*buildah, "run", *words))


def test_a_read_only_root_without_network_serves_the_default_model(container: Container) -> None:
    alone = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child")
    inside = (container.root, "env", "-i", *container.variables, "sh", "-ec", SESSION)
    check_session(run(*alone, "sh", "-ec", READ_ONLY, "sh", *inside))


def test_the_health_check_is_in_the_image(buildah: tuple[str, ...], container: Container) -> None:
    """buildah keeps it in images of Docker's format alone."""
    config = json.loads(run(*buildah, "inspect", container.name))["Docker"]["config"]
    assert config["Healthcheck"]["Test"] == ["CMD", "embedd", "health"]
    assert (config["User"], config["StopSignal"]) == (f"{USER}:{USER}", "SIGTERM")
