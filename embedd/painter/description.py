"""The text about a picture that is written into its file, in A1111's form."""

from embedd import __version__
from embedd.engine.image_spec import ImageSpec
from embedd.images import PaintRequest
from embedd.painter.limits import PaintSettings

HASH_DIGITS = 10


def describe_picture(
    request: PaintRequest, settings: PaintSettings, spec: ImageSpec, *, sampler: str, seed: int
) -> str:
    """Return prompt and settings of one picture; every viewer of A1111's pictures parses it."""
    facts = {
        "Steps": settings.steps,
        "Sampler": sampler,
        "CFG scale": settings.guidance,
        "Seed": seed,
        "Size": f"{settings.width}x{settings.height}",
        "Model hash": spec.digest.removeprefix("sha256:")[:HASH_DIGITS],
        "Model": spec.name,
        "Version": f"embedd {__version__}",
    }
    lines = [request.prompt]
    if request.negative:
        lines.append(f"Negative prompt: {request.negative}")
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items()))
    return "\n".join(lines)
