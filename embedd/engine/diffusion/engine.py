"""An image model in stable-diffusion.cpp: a context that paints one picture at a time."""

import ctypes
import traceback
from collections.abc import Callable
from typing import Any, Self

from stable_diffusion_cpp import stable_diffusion_cpp as lib

from embedd.engine.diffusion import library
from embedd.engine.diffusion.pictures import copy_picture, take_pictures
from embedd.engine.diffusion.progress import Steps
from embedd.engine.image_protocol import PictureOrder, Report, Show
from embedd.engine.image_spec import SMALL_PIXELS, ImageInfo, ImageSpec
from embedd.errors import EngineError, ModelLoadError
from embedd.images import FamilyFacts, ImagePart, Pixels

# Fields of the library's parameters.
PATHS = {
    ImagePart.MODEL: "model_path",
    ImagePart.DIFFUSION: "diffusion_model_path",
    ImagePart.LLM: "llm_path",
    ImagePart.CLIP_L: "clip_l_path",
    ImagePart.CLIP_G: "clip_g_path",
    ImagePart.T5XXL: "t5xxl_path",
    ImagePart.VAE: "vae_path",
    ImagePart.TAESD: "taesd_path",
}
PROJECTION = 1  # previews are a matrix product: an eighth of the size, and nearly free


class DiffusionEngine:
    """An image model that stable-diffusion.cpp has loaded; see `ImageEngine`."""

    def __init__(self, context: Any, facts: FamilyFacts, info: ImageInfo) -> None:
        self._context = context
        self._facts = facts
        self.info = info

    @classmethod
    def load(
        cls,
        spec: ImageSpec,
        *,
        threads: int,
        report: Callable[[float], None] = lambda _share: None,
    ) -> Self:
        """Load a model.

        Args:
            threads: Cores to compute with.
            report: Called with the share (0 … 1) of the tensors that is loaded.

        Raises:
            ModelLoadError: The files cannot be used; the error names the tensor where it can.
            EngineError: The library does not match the binding.
        """
        version = library.open_library()
        params = library.make_context_params()
        # Takes less memory, and on a CPU three times as long.
        flash_attention = spec.pixels > SMALL_PIXELS
        library.fill_params(
            params,
            **{PATHS[part]: bytes(path) for part, path in spec.parts.items()},
            vae_decode_only=True,
            free_params_immediately=False,  # or there would be no second picture
            n_threads=threads,
            enable_mmap=spec.use_mmap,
            diffusion_flash_attn=flash_attention,
        )
        callback = _watch_load(report)
        lib.sd_set_progress_callback(callback, None)
        library.forget_lines()
        context = lib.new_sd_ctx(ctypes.byref(params))
        if not context:
            raise ModelLoadError(f'cannot load model "{spec.name}": {library.find_reason()}')
        method = lib.sd_get_default_sample_method(context)
        name = lib._lib.sd_sample_method_name  # noqa: SLF001 - exported, but not wrapped
        name.restype = ctypes.c_char_p
        info = ImageInfo(
            sampler=name(method).decode(),
            engine="diffusion",
            backend="diffusion-flash" if flash_attention else "diffusion",
            library=version,
        )
        return cls(context, spec.facts, info)

    def paint(self, order: PictureOrder, report: Report, show: Show | None = None) -> Pixels:
        """See `ImageEngine.paint`."""
        steps = Steps(order.steps, report)
        on_step = _guard(lib.sd_progress_callback, lambda step, total, *_: steps.take(step, total))
        lib.sd_set_progress_callback(on_step, None)
        on_preview = None if show is None else _watch_previews(show)
        lib.sd_set_preview_callback(on_preview, PROJECTION, 1, True, False, None)
        params = self._make_params(order)
        library.forget_lines()
        images = lib.generate_image(self._context, ctypes.byref(params))
        if not images:
            raise EngineError(f"the picture was not painted: {library.find_reason()}")
        [picture] = take_pictures(images, 1)
        return picture

    def close(self) -> None:
        """See `ImageEngine.close`."""
        lib.free_sd_ctx(self._context)

    def _make_params(self, order: PictureOrder) -> lib.sd_img_gen_params_t:
        params = library.make_picture_params()
        library.fill_params(
            params,
            prompt=order.prompt.encode(),
            negative_prompt=order.negative.encode(),
            width=order.painted_width,
            height=order.painted_height,
            seed=order.seed,
            batch_count=1,
        )
        library.fill_params(params.sample_params, sample_steps=order.steps)
        guidance = params.sample_params.guidance
        if self._facts.is_distilled:
            library.fill_params(guidance, txt_cfg=1.0, distilled_guidance=order.guidance)
        else:
            library.fill_params(guidance, txt_cfg=order.guidance)
        tiled = order.painted_width * order.painted_height > SMALL_PIXELS
        library.fill_params(params.vae_tiling_params, enabled=tiled)
        return params


def _watch_load(report: Callable[[float], None]) -> Any:
    return _guard(
        lib.sd_progress_callback, lambda done, total, *_: report(done / total if total else 0.0)
    )


def _watch_previews(show: Show) -> Any:
    def take(step: int, count: int, frames: Any, *_: object) -> None:
        if count:
            show(step, copy_picture(frames[0]))

    return _guard(lib.sd_preview_callback, take)


def _guard(kind: Any, function: Callable[..., None]) -> Any:
    """Return a callback for C that does not raise: the library would go on all the same."""

    def call(*args: Any) -> None:
        try:
            function(*args)
        except Exception:
            traceback.print_exc()

    return kind(call)
