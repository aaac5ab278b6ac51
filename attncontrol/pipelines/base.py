"""A diffusers pipeline whose call takes a control. Everything else is the stock pipeline."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import torch
from diffusers import DiffusionPipeline, ModularPipeline
from diffusers.pipelines import auto_pipeline
from diffusers.utils import BaseOutput
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from attncontrol.control import AttentionControl, attach
from attncontrol.editing.pipeline import EditingMixin
from attncontrol.families import family_of, has_transformer_family
from attncontrol.grounding import add_on
from attncontrol.grounding.settings import Grounding
from attncontrol.guidance.cost import Memory
from attncontrol.guidance.looking import MapSettings
from attncontrol.guidance.record import ControlRecord
from attncontrol.guidance.settings import settings_of
from attncontrol.insertion.pipeline import InsertionMixin
from attncontrol.losses.base import MethodSum
from attncontrol.losses.combining import Control, resolve_control
from attncontrol.losses.registry import nearest
from attncontrol.models import default_call, resolve, tuned_settings
from attncontrol.pipelines.redrawing import draw_anew


@dataclass
class AttentionControlOutput(BaseOutput):
    """The result of a controlled pipeline.

    Args:
        images: As the stock pipeline returns them (PIL, numpy or latents).
        nsfw_content_detected: Likewise.
        control: What was guided, by image; None if nothing was asked for.
    """

    images: Any
    nsfw_content_detected: list[bool] | None = None
    control: ControlRecord | None = None


class AttentionControlPipeline(EditingMixin, InsertionMixin):
    """Text-to-image with test-time cross-attention control.

    `from_pretrained` takes a bundled model, "emoji-flux" or "emoji", or any Stable Diffusion 1.x, 2.x or XL id or
    folder, or one of a diffusion transformer (docs/works_with.md), with all arguments of diffusers, and returns the
    controlled form of the stock pipeline that the checkpoint names; `from_pipe` shares the components of an existing
    pipeline.

    Example:
        pipe = AttentionControlPipeline.from_pretrained("emoji")
        pipe("a cat and a frog", control="attend-and-excite").images[0]
    """

    stock_name: ClassVar[str]
    also_loads: ClassVar[tuple[str, ...]] = ()  # further stock pipelines whose checkpoints it loads
    tuned_settings: Mapping[str, Mapping[str, Any]] = {}
    _forms: ClassVar[dict[str, type[AttentionControlPipeline]]] = {}
    _control: AttentionControl | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "stock_name" in vars(cls):  # a subclass of a form is no form for others to get
            cls._forms |= dict.fromkeys((cls.stock_name, *cls.also_loads), cls)
            link_to_auto_pipelines(cls)
        cls._forms[cls.__name__] = cls

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> AttentionControlPipeline:
        """Loads a checkpoint.

        Args:
            pretrained_model_name_or_path: "emoji-flux" or "emoji", the bundled models, a folder, or an id on the Hub.
            **kwargs: Those of diffusers' `from_pretrained`, without `custom_pipeline`.

        Returns:
            The controlled form of the pipeline that the checkpoint names.

        Raises:
            ValueError: For a folder that is missing, incomplete or of another family.
        """
        if "custom_pipeline" in kwargs:
            raise ValueError(
                "from_pretrained takes no custom_pipeline here: a controlled pipeline is the controlled form of a "
                "stock one. Load yours with diffusers and call it inside `with attncontrol.attach(...)`"
            )
        path = resolve(pretrained_model_name_or_path)
        if cls is AttentionControlPipeline:
            return cls._form_for(path, kwargs).from_pretrained(path, **kwargs)
        try:
            pipe = super().from_pretrained(path, **kwargs)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is not a complete {cls.stock_name} checkpoint: {error}") from error
        pipe.tuned_settings = tuned_settings(path)
        if (gates := Path(path, add_on.FILE)).is_file() and "unet" not in kwargs:
            add_on.add_gates(pipe, gates)
        if "height" in (call := default_call(path)) and hasattr(pipe, "default_sample_size"):
            pipe.default_sample_size = call["height"] // pipe.vae_scale_factor
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> AttentionControlPipeline:
        """Makes the controlled form of an existing pipeline, with the same components.

        The components keep their dtype unless one is given; plain diffusers would make them float32.

        Args:
            pipeline: A stock pipeline, or a controlled one.
            **kwargs: Those of diffusers' `from_pipe`.

        Returns:
            The controlled form; the given pipeline stays usable.

        Raises:
            ValueError: For a pipeline that has no controlled form.
        """
        if isinstance(pipeline, ModularPipeline):
            raise ValueError(_of_modular("this pipeline", type(pipeline).__name__))
        if not kwargs.keys() & {"dtype", "torch_dtype"}:
            kwargs["dtype"] = pipeline.dtype
        if cls is not AttentionControlPipeline:
            return super().from_pipe(pipeline, **kwargs)
        return cls._form(type(pipeline).__name__, "this pipeline").from_pipe(pipeline, **kwargs)

    @classmethod
    def _form_for(cls, path: str, kwargs: Mapping[str, Any]) -> type[AttentionControlPipeline]:
        known = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "revision")
        options = {k: v for k, v in kwargs.items() if k in known}
        try:
            config = DiffusionPipeline.load_config(path, **options)
        except OSError as error:
            with suppress(OSError):
                found = ModularPipeline.load_config(path, **options)
                raise ValueError(_of_modular(f"the checkpoint {path!r}", found.get("_class_name"))) from error
            raise ValueError(f"no diffusers checkpoint at {path!r}: {error}") from error
        return cls._form(config.get("_class_name"), f"the checkpoint {path!r}")

    @classmethod
    def _form(cls, class_name: Any, what: str) -> type[AttentionControlPipeline]:
        if class_name not in cls._forms and has_transformer_family(stock := getattr(diffusers, str(class_name), None)):
            name = f"{class_name.removesuffix('Pipeline')}AttentionControlPipeline"
            doc = f"`{class_name}` whose call takes `control`, `subjects`, `layout`."
            type(name, (AttentionControlPipeline, stock), {"stock_name": class_name, "__doc__": doc})
        if class_name not in cls._forms:
            stock = ", ".join(sorted({form.stock_name for form in cls._forms.values()}))
            raise ValueError(
                f"{what} is a {class_name}, which has no controlled form; there is one for {stock} "
                "and for every pipeline around a diffusion transformer that is controlled. Others around a Stable "
                "Diffusion UNet can be controlled with attncontrol.attach"
            )
        return cls._forms[class_name]

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Saves the pipeline under its stock class's name, so that plain diffusers can load it too."""
        super().save_pretrained(save_directory, **kwargs)
        index = Path(save_directory) / "model_index.json"
        config = json.loads(index.read_text(encoding="utf-8"))
        index.write_text(json.dumps({**config, "_class_name": self.stock_name}, indent=2) + "\n", encoding="utf-8")

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock pipeline; `clip_skip` works with text encoders that have no inner `text_model` as well."""
        encoder = getattr(self, "text_encoder", None)
        if not isinstance(encoder, CLIPTextModel | CLIPTextModelWithProjection) or hasattr(encoder, "text_model"):
            return super().encode_prompt(*args, **kwargs)
        # transformers 5.6 merged the inner model into its parent, which diffusers still asks for (diffusers #14124)
        vars(encoder)["text_model"] = encoder
        try:
            return super().encode_prompt(*args, **kwargs)
        finally:
            del vars(encoder)["text_model"]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *args: Any,
        control: Control = None,
        subjects: Any = None,
        layout: Any = None,
        grounding: bool | str | Grounding | Mapping[str, Any] | None = None,
        parser: Any = None,
        record_maps: bool | MapSettings = False,
        memory: Memory = "auto",
        **kwargs: Any,
    ) -> AttentionControlOutput | tuple:
        """Generates images; with `control=None` exactly as the stock pipeline, whose arguments all apply.

        Args:
            prompt: One, or a list of them.
            *args: Further arguments of the stock pipeline, by place.
            control: A method's name, a method, or methods added up (`AttendAndExcite() + 0.5 * SynGen()`).
            subjects: Words or phrases of the prompt, token indices, or groups of them; parsed from the prompt if
                absent. For a list of prompts one entry per prompt.
            layout: Boxes (x0, y0, x1, y1) in 0..1 by phrase, or what else `read_layout` takes; likewise.
            grounding: True, "reground" or a `Grounding`: the UNet, one with GLIGEN's gates, is told of the layout,
                with any control or none.
            parser: A spaCy pipeline, or its name, that finds the subjects.
            record_maps: Whether to keep each subject's attention map of every step in the result, without a control
                every word's; `MapSettings` choose layers and steps, and what is kept apart.
            memory: "low" trades time for memory, "auto" does so if the device has too little for "fast".
            **kwargs: Further arguments of the stock pipeline.

        Returns:
            An `AttentionControlOutput`, or the stock tuple with `return_dict=False`.

        Raises:
            ValueError: For prompts, subjects, layouts or sizes that cannot be used.
            TypeError: For an argument that the stock pipeline does not know.
        """
        self._check_names(args, kwargs)
        args, kwargs = self._stock_arguments(prompt, args, kwargs)
        if control is None and not record_maps and (grounding is None or grounding is False):
            return self._output(super().__call__(*args, **kwargs), None)
        self._check(prompt, kwargs)
        how = {"grounding": grounding, "parser": parser, "record_maps": record_maps, "memory": memory}
        methods = resolve_control(control, settings_of(self))
        run = functools.partial(self._run, methods, how)
        given = {**self._by_name(args, kwargs), "subjects": subjects, "layout": layout}
        if (judge := methods.judge) is None:
            return self._output(*run(given))
        return self._output(*draw_anew(judge, run, given, lambda: getattr(self, "_interrupt", False)))

    def _run(
        self, methods: MethodSum, how: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> tuple[Any, ControlRecord]:
        """One run of the stock pipeline under control, and what was guided."""
        stock = {k: list(v) if isinstance(v, list) else v for k, v in arguments.items()}  # see `_stock_arguments`
        places = {name: stock.pop(name) for name in ("subjects", "layout")}
        prompt, embeds = stock.get("prompt"), stock.get("prompt_embeds")
        control = attach(
            self,
            methods,
            prompt=prompt if prompt is not None else _embedded_prompts(stock),
            text_length=embeds.shape[1] if embeds is not None else None,
            **places,
            **how,
        )
        control.draws_anew = True
        self._control = control
        try:
            with control:
                output = super().__call__(**stock)
            return output, control.record
        finally:
            self._control = None

    def _by_name(self, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The stock call's arguments by name. Raises TypeError for too many by place, and for one given twice."""
        signature = inspect.signature(getattr(diffusers, self.stock_name).__call__)
        signature.bind_partial(self, *args, **kwargs)
        names = [*signature.parameters][1:]
        return {**dict(zip(names, args, strict=False)), **kwargs}

    @property
    def control_record(self) -> ControlRecord | None:
        """What the running call did so far, for its `callback_on_step_end`; None without control or a running call."""
        return None if self._control is None else self._control.record

    def _check_names(self, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """Raises TypeError for a keyword that the stock call does not know, which some swallow without a word."""
        own = inspect.signature(AttentionControlPipeline.__call__).parameters
        stock = inspect.signature(getattr(diffusers, self.stock_name).__call__).parameters
        known = [name for name, p in {**own, **stock}.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for name in kwargs.keys() - {*known, "callback", "callback_steps"}:
            raise TypeError(f"a controlled {self.stock_name} takes no argument {name!r}{nearest(name, known[1:])}")

    def _stock_arguments(self, prompt: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The arguments of the stock call, where the prompt is not always the first; TypeError for others by place."""
        prompt = list(prompt) if isinstance(prompt, list) else prompt  # Z-Image writes its chat into the list
        first = list(inspect.signature(getattr(diffusers, self.stock_name).__call__).parameters)[1]
        if first == "prompt":
            return (prompt, *args), kwargs
        if args:
            raise TypeError(
                f"a controlled {self.stock_name} takes the prompt alone by place: name the other arguments"
            )
        return (), {**kwargs, "prompt": prompt}

    def _check(self, prompt: Any, kwargs: Mapping[str, Any]) -> None:
        multiple = family_of(self).size_multiple
        for name in ("height", "width"):
            size = kwargs.get(name)
            if size is not None and (not isinstance(size, int) or size <= 0 or size % multiple):
                raise ValueError(f"{name} must be a positive multiple of {multiple}, got {size!r}")
        latents = kwargs.get("latents")
        if latents is not None and not torch.isfinite(latents).all():
            raise ValueError("the given latents are not finite")

    @staticmethod
    def _output(output: Any, record: ControlRecord | None) -> Any:
        if isinstance(output, tuple):
            return output
        return AttentionControlOutput(output.images, getattr(output, "nsfw_content_detected", None), record)


def _of_modular(what: str, name: Any) -> str:
    return (
        f"{what} is a modular pipeline, {name}, which has no controlled form: load it with diffusers' "
        "ModularPipeline.from_pretrained and load_components, and call it inside `with attncontrol.attach(...)`, or "
        "put its blocks into attncontrol.AttentionControlStep"
    )


def link_to_auto_pipelines(form: type[AttentionControlPipeline]) -> None:
    """Lets diffusers' `AutoPipelineFor...from_pipe` take a controlled form for the stock pipeline it stands for."""
    for mapping in tuple(auto_pipeline.SUPPORTED_TASKS_MAPPINGS):
        for model, stock in mapping.items():
            if stock.__name__ == form.stock_name:
                auto_pipeline.SUPPORTED_TASKS_MAPPINGS.append({model: form})
                return


def _embedded_prompts(kwargs: Mapping[str, Any]) -> list[None] | None:
    """Placeholders for prompts that are given as embeddings only."""
    embeds = kwargs.get("prompt_embeds")
    return None if embeds is None or embeds.shape[0] == 1 else [None] * embeds.shape[0]
