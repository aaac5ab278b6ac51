"""The words a bundled model was taught, to click a prompt together."""

from __future__ import annotations

from html import escape

import gradio as gr

from attncontrol.demo import verdicts
from attncontrol.demo.job_panel import PRIVATE
from attncontrol.demo.widgets import widget

# A colour waits for its thing: "a cat", then red, then bow: "a cat and a red bow".
ADD = """({word, colours}, prompt) => {
  const text = prompt.trim();
  const last = text.split(/\\s+/).at(-1).toLowerCase();
  if (colours.includes(last) || ["a", "an"].includes(last)) return `${text} ${word}`;
  return `${text}${text ? " and " : ""}${/^[aeiou]/.test(word) ? "an" : "a"} ${word}`;
}"""


def word_bank(model: str, prompt: gr.Textbox) -> None:
    """A button per word, which adds it to the prompt; nothing for models that are not bundled."""
    words = verdicts.words(model)
    if not words:
        return
    buttons = "".join(
        f'<button type="button" class="{kind}" data-word="{escape(word)}">{escape(word)}</button>'
        for kind, known in words.items()
        for word in known
    )
    count = f"This model knows {len(words['things'])} things and {len(words['colours'])} colours. Click them together:"
    inside = (
        f'<p class="hint">{count}</p><div class="line" role="group" aria-label="Words for the prompt">{buttons}</div>'
    )
    bank = widget("word-bank", {"word": "", "colours": words["colours"]}, inside=inside)
    bank.select(None, [bank, prompt], prompt, js=ADD, **PRIVATE)
