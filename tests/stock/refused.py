"""What cannot be controlled, and is refused with an error that says why."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import DeepCache
import diffusers
import tokenizers
import transformers
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests import tiny, tiny_transformers

KINDS = ("text_encoder", "tokenizer")


@dataclass(frozen=True)
class Refusal:
    """A row of what cannot be controlled: how it is made, and what the error says of the reason and of the remedy."""

    name: str
    build: Callable[[], Any]
    reason: str
    remedy: str = "Use a text-to-image, .* as StableDiffusionPipeline"
    note: str = ""


def flux() -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return diffusers.FluxPipeline(
        scheduler=None, vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        transformer=transformer,
    )  # fmt: skip


def of_a_family(name: str, build: Callable[[], Any], reason: str, remedy: str) -> Refusal:
    """A pipeline around a transformer that is controlled in other pipelines."""
    cls = getattr(diffusers, name)

    def made() -> Any:
        known = inspect.signature(cls.__init__).parameters
        parts = {part: value for part, value in build().components.items() if part in known}
        return cls(**{**dict.fromkeys([part for part in known if part not in ("self", "is_distilled")]), **parts})

    return Refusal(name, made, f"{name} cannot be controlled: .*{reason}", remedy)


def hidream() -> Any:
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        caption_channels=[8, 8], text_emb_dim=8, axes_dims_rope=(4, 4), max_resolution=(16, 16), llama_layers=[0, 1],
    )  # fmt: skip
    parts = dict.fromkeys(("scheduler", "vae", *(f"{kind}{n}" for kind in KINDS for n in ("", "_2", "_3", "_4"))))
    return diffusers.HiDreamImagePipeline(**parts, transformer=transformer)


def caching() -> Any:
    pipe = tiny_transformers.flux()
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig())
    return pipe


def parallel() -> Any:
    """Two ranks of a process group that is none, as torch's own tests have them; diffusers counts accelerators."""
    pipe = tiny_transformers.flux()
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        mesh = distributed.init_device_mesh("cpu", (1, 2), mesh_dim_names=("ring", "ulysses"))
        with mock.patch("torch.accelerator.device_count", return_value=2):
            config = diffusers.ContextParallelConfig(ulysses_degree=2, mesh=mesh)
            pipe.transformer.enable_parallelism(config=config)
    finally:
        distributed.destroy_process_group()
    return pipe


def upscaler() -> Any:
    vae = tiny.vae()
    vae.register_to_config(scaling_factor=0.08333)  # another one gives a warning
    return diffusers.StableDiffusionUpscalePipeline(
        vae=vae, text_encoder=tiny.text_encoder(), tokenizer=tiny.tokenizer(),
        unet=tiny.unet(7, num_class_embeds=1000), low_res_scheduler=tiny.scheduler(), scheduler=tiny.scheduler(),
    )  # fmt: skip


def kandinsky() -> Any:
    return diffusers.KandinskyV22Pipeline(unet=tiny.unet(), scheduler=tiny.scheduler(), movq=tiny.vae())


def animated() -> Any:
    adapter = diffusers.MotionAdapter(block_out_channels=(16, 32), motion_norm_num_groups=8, motion_layers_per_block=1)
    parts = {name: tiny.components()[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    return diffusers.AnimateDiffPipeline(motion_adapter=adapter, **parts)


def with_another_tokenizer() -> Any:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"cat": 0, "?": 1}, unk_token="?"))
    return tiny.stable_diffusion(tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=words))


def cached(name: str, change: Callable[[Any], Any], remedy: str) -> Refusal:
    """A UNet that hands on features of earlier steps."""

    def build() -> Any:
        pipe = tiny.stable_diffusion()
        change(pipe)
        return pipe

    return Refusal(name, build, "caches features, and guided passes would spoil them", remedy, "take it off first")


def with_deep_cache(pipe: Any) -> None:
    helper = DeepCache.DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=3, cache_branch_id=0)
    helper.enable()


def with_attention_broadcast(pipe: Any) -> None:
    settings = {
        "spatial_attention_block_skip_range": 2,
        "spatial_attention_block_identifiers": ("transformer_blocks",),
    }
    config = diffusers.PyramidAttentionBroadcastConfig(**settings, current_timestep_callback=lambda: 500)
    diffusers.hooks.apply_pyramid_attention_broadcast(pipe.unet, config)


REFUSED = [
    cached("DeepCache", with_deep_cache, r"disable\(\) of its DeepCacheSDHelper"),
    cached("apply_pyramid_attention_broadcast", with_attention_broadcast, "take the cache off first"),
    Refusal(
        "FluxPipeline without tokenizers",
        flux,
        "FluxPipeline cannot be controlled: it has no tokenizer",
    ),
    of_a_family("Flux2KleinKVPipeline", tiny_transformers.klein, "keeps keys and values", "Use Flux2KleinPipeline"),
    of_a_family("ZImageOmniPipeline", tiny_transformers.z_image, "pictures and text in turn", "Use ZImagePipeline"),
    of_a_family("SanaSprintPipeline", tiny_transformers.sana, "different scales", "Use SanaPipeline"),
    of_a_family(
        "QwenImageLayeredPipeline", tiny_transformers.qwen_image, "several pictures at once", "Use QwenImagePipeline"
    ),
    Refusal(
        "HiDreamImagePipeline",
        hidream,
        "HiDreamImagePipeline cannot be controlled: it has HiDreamImageTransformer2DModel",
        note="diffusers runs its experts without gradients",
    ),
    Refusal("a transformer that caches", caching, "caches features", "disable_cache"),
    Refusal(
        "a transformer shared out by enable_parallelism", parallel, "over several devices", "without enable_parall"
    ),
    Refusal(
        "AnimateDiffPipeline",
        animated,
        "AnimateDiffPipeline cannot be controlled: it has UNetMotionModel",
        note="its UNet makes the frames of a video together",
    ),
    Refusal(
        "StableDiffusionUpscalePipeline",
        upscaler,
        "StableDiffusionUpscalePipeline cannot be controlled: it has no property",
    ),
    Refusal("KandinskyV22Pipeline", kandinsky, "KandinskyV22Pipeline cannot be controlled: it reads no text"),
    Refusal("a tokenizer that is not CLIP's", with_another_tokenizer, "its TokenizersBackend is not CLIP's"),
]
