"""The example workflows, and what the page would post of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "example_workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
WITHOUT_DOWNLOADS = ("sound_to_image", "sound_driven_frames", "audio_similarity")
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_NOTES = ("Note", "MarkdownNote")


def is_widget(kind: Any) -> bool:
    """Whether a value of an input of this type is typed in on the node."""
    return isinstance(kind, list) or kind in _WIDGETS


def load(name: str) -> dict[str, Any]:
    """A workflow as the page saves it."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def to_prompt(workflow: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What the page posts to /prompt for a workflow; `known` is the server's /object_info."""
    links = {key: [str(source), slot] for key, source, slot, *_ in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in _NOTES:
            continue
        said = known[node["type"]]["input"]
        values, inputs = iter(node["widgets_values"]), {}
        for name, (kind, *rest) in {**said.get("required", {}), **said.get("optional", {})}.items():
            options = rest[0] if rest else {}
            if is_widget(kind):
                inputs[name] = next(values)
                for more in ("control_after_generate", "image_upload"):
                    if options.get(more):
                        next(values)
        assert not list(values), f"{node['type']} has values left over"
        linked = {each["name"]: links[each["link"]] for each in node["inputs"] if each["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs | linked}
    return prompt


def of_type(prompt: dict[str, Any], kind: str) -> list[str]:
    """The ids of a prompt's nodes of a class."""
    return [key for key, node in prompt.items() if node["class_type"] == kind]
