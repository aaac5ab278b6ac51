"""One edit, of the tab Edit or of /edit: read and checked before anything is drawn, made, and shown."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attncontrol.arguments import LARGEST_SEED
from attncontrol.demo import before_after
from attncontrol.demo.result_view import sheet_of_maps
from attncontrol.demo.settings import Limits
from attncontrol.demo.studio import Progress, Report, Studio
from attncontrol.demo.task import FieldError, field, number, read_text, whole_number
from attncontrol.editing.alignment import PromptAlignment, align_prompts
from attncontrol.editing.arguments import check_invert, read_local, unet_family
from attncontrol.editing.inversion import METHODS
from attncontrol.prompt.align import tokenize
from attncontrol.prompt.subjects import FUNCTION_WORDS, WORD


@dataclass(frozen=True)
class EditTask:
    """An edit that can be made; `picture` has the model's size and is inverted by `method`, None if one is drawn."""

    prompt: str
    to: str
    picture: Image.Image | None
    method: str
    seed: int
    steps: int
    guidance_scale: float
    windows: tuple[float, float]  # cross, self
    local: tuple[str, ...]
    alignment: PromptAlignment

    @property
    def learning(self) -> int:
        """Steps of the inversion."""
        if self.picture is None:
            return 0
        return self.steps if self.method == "ddim" else 2 * self.steps

    @property
    def how(self) -> dict[str, Any]:
        """The arguments of `edit` besides the prompts, without what an inversion has itself."""
        call: dict[str, Any] = {"cross": self.windows[0], "self_attention": self.windows[1]}
        if self.local:
            call["local"] = list(self.local)
        return call if self.picture is not None else {**call, "seed": self.seed, **self.sampling}

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of the pipeline."""
        return {"num_inference_steps": self.steps, "guidance_scale": self.guidance_scale}

    @property
    def facts(self) -> dict[str, Any]:
        """What a picture carries of how it was made."""
        source = {} if self.picture is None else {"method": self.method, **self.sampling}
        return {"to": self.to, "prompt": self.prompt, **self.how, **source}


@dataclass(frozen=True)
class Edited:
    """Both pictures, and the attention [2, steps, positions, height, width] to the prompts' positions."""

    pictures: tuple[Image.Image, Image.Image]
    maps: Tensor


def can_edit(pipe: Any) -> bool:
    """Whether prompt-to-prompt works on this pipeline."""
    try:
        unet_family(pipe)
    except ValueError:
        return False
    return True


def why_not_invert(pipe: Any) -> str:
    """What keeps a pipeline that can edit from inverting pictures; empty if nothing does."""
    try:
        check_invert(pipe, unet_family(pipe), "a picture", "ddim", 1, 1.0, None, None)
    except ValueError as error:
        return str(error)
    return ""


def read_edit(
    studio: Studio,
    limits: Limits,
    *,
    prompt: Any,
    to: Any,
    picture: str | Path | bytes | None,
    method: Any,
    seed: Any,
    steps: Any,
    guidance_scale: Any,
    cross: Any,
    self_attention: Any,
    local: Any,
) -> EditTask:
    """A checked edit. Raises FieldError that names the field at fault, before anything is drawn."""
    family = unet_family(studio.pipe)
    before, after = (read_text(name, text, limits, needed=True) for name, text in (("prompt", prompt), ("to", to)))
    with field("to"):
        alignment = align_prompts(before, after, family.tokenizer, family.text_length)
        if not alignment.changes:
            raise ValueError("both prompts say the same: change a word.")
    words = tuple(filter(None, (word.strip() for word in read_text("local", local, limits).split(","))))
    with field("local"):
        read_local(before, after, words, family)
    if method not in METHODS:
        raise FieldError("method", f"choose one of {', '.join(METHODS)}.")
    task = EditTask(
        before,
        after,
        None,
        method,
        whole_number("seed", seed, 0, LARGEST_SEED),
        whole_number("steps", steps, 1, limits.steps),
        number("guidance_scale", guidance_scale, 0, 100),
        (number("cross", cross, 0, 1), number("self_attention", self_attention, 0, 1)),
        words,
        alignment,
    )
    return task if picture is None else _with_picture(studio, task, picture)


def _with_picture(studio: Studio, task: EditTask, picture: str | Path | bytes) -> EditTask:
    if why := why_not_invert(studio.pipe):
        raise FieldError("picture", f"{why}.")
    if task.method != "ddim" and task.guidance_scale <= 1:
        raise FieldError("guidance_scale", f"{task.method} learns for guided sampling: give more than 1, or use ddim.")
    return replace(task, picture=before_after.open_picture(studio, picture))


class Inversions:
    """The file of every visitor's last inversion: another edit of that picture is quick, a stopped one goes on."""

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}

    def path(self, session: str, task: EditTask) -> Path | None:
        """Where the inversion of a visitor's task is or will be; what it takes the place of is removed."""
        if task.picture is None:
            return None
        told = json.dumps([task.prompt, task.method, task.sampling]).encode()
        name = f"{hashlib.sha256(told + task.picture.tobytes()).hexdigest()}.safetensors"
        if session not in self._files or self._files[session].name != name:
            self.forget(session)
            self._files[session] = Path(tempfile.mkdtemp(prefix="attncontrol-")) / name
        return self._files[session]

    def forget(self, session: str) -> None:
        """Removes a visitor's inversion."""
        path = self._files.pop(session, None)
        if path is not None:
            path.unlink(missing_ok=True)


def make_edit(studio: Studio, task: EditTask, path: Path | None, report: Report) -> Edited:
    """Inverts the picture if there is one, with `path` for its inversion, and edits; reports `Progress`."""
    total = task.learning + task.steps

    def on_step(pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        report(Progress(task.learning + index + 1, total, "before and after"))
        return tensors

    source: Any = task.prompt
    if task.picture is not None:
        done = iter(range(1, task.learning + 1))
        with field("picture"):
            source = studio.pipe.invert(
                task.picture, task.prompt, task.method, path=path, **task.sampling,
                on_step=lambda *_: report(Progress(next(done), total, "the noise behind the picture")),
            )  # fmt: skip
    with field("to"):
        found = studio.pipe.edit(source, task.to, **task.how, record_maps=True, callback_on_step_end=on_step)
    return Edited((found.sources[0], found.images[0]), found.maps[:, 0])


def word_maps(studio: Studio, task: EditTask, maps: Tensor) -> tuple[list[str], Tensor]:
    """The new prompt's words that say something, "red -> blue" where one takes another's place, and their attention.

    [2, words, steps, height, width]; an inserted word has none before.
    """
    tokens, names, found = tokenize(studio.tokenizer, task.to), [], []
    old = tokenize(studio.tokenizer, task.prompt)
    for match in WORD.finditer(task.to):
        positions = list(tokens.token_indices(match.span()))
        sources = task.alignment.matrix[:, positions].any(1).nonzero().flatten().tolist()
        spans = [old.spans[p] for p in sources if p < len(old.spans) and old.spans[p] is not None]
        before = task.prompt[min(s[0] for s in spans) : max(s[1] for s in spans)] if spans else ""
        same = before.lower() == match[0].lower()
        if not positions or not match[0][0].isalnum() or (same and before.lower() in FUNCTION_WORDS):
            continue
        names.append(match[0] if same else f"{before} → {match[0]}" if before else f"+ {match[0]}")
        after = maps[1][:, positions].mean(1)
        found.append(torch.stack([maps[0][:, sources].mean(1) if sources else torch.zeros_like(after), after]))
    return names, torch.stack(found, 1) if found else maps[:, :0]


def view_of(studio: Studio, task: EditTask, edited: Edited) -> dict[str, Any]:
    """The edit as widgets/result-view.js shows a result."""
    words, maps = word_maps(studio, task, edited.maps)
    return before_after.view(
        studio,
        task,
        edited.pictures,
        (as_python(studio, task), as_command(studio, task)),
        method=f"cross {task.windows[0]:g}, self {task.windows[1]:g}",
        what=", ".join(change.text.replace("->", "→") for change in task.alignment.changes),
        maps=sheet_of_maps(words, maps) if words else None,
    )


def as_python(studio: Studio, task: EditTask) -> str:
    """A program that makes both pictures; a visitor's is "picture.png" in it."""
    source, inverting = repr(task.prompt), []
    if task.picture is not None:
        how = "".join(f", {name}={value!r}" for name, value in task.sampling.items())
        inverting = [f"inversion = pipe.invert('picture.png', {task.prompt!r}, {task.method!r}{how})"]
        source = "inversion"
    arguments = [source, repr(task.to), *(f"{name}={value!r}" for name, value in task.how.items())]
    return before_after.program(studio, "edit", arguments, first=inverting)


def as_command(studio: Studio, task: EditTask) -> str:
    """The command line that makes both pictures."""
    words = ["--prompt", task.prompt, "--to", task.to]
    words += ["--method", task.method] if task.picture is not None else ["--seed", str(task.seed)]
    words += ["--steps", str(task.steps), "--guidance-scale", repr(task.guidance_scale)]
    words += ["--cross", repr(task.windows[0]), "--self-attention", repr(task.windows[1])]
    words += ["--local", ", ".join(task.local)] if task.local else []
    return before_after.command(studio, task, "edit", words)
