"""The example workflows against the nodes of the pack; `pytest -m comfyui` runs them."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.helpers import workflows


def test_every_workflow_has_a_picture_and_every_node_is_in_one(pack):
    assert len(workflows.NAMES) >= 6
    used = set()
    for name in workflows.NAMES:
        used |= {node["type"] for node in workflows.load(name)["nodes"]}
        with Image.open(workflows.FOLDER / f"{name}.jpg") as image:
            assert min(image.size) >= 400
    assert used >= set(pack.NODE_CLASS_MAPPINGS)


@pytest.mark.parametrize("name", workflows.NAMES)
def test_workflows_fit_the_nodes(pack, folders, name):
    workflow = workflows.load(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for node in nodes.values():
        if not node["type"].startswith("Audio2Img"):
            continue
        cls = pack.NODE_CLASS_MAPPINGS[node["type"]]
        assert [(each["name"], each["type"]) for each in node["outputs"]] == list(
            zip(cls.RETURN_NAMES, cls.RETURN_TYPES, strict=True)
        )
        given = cls.INPUT_TYPES()
        inputs = {**given["required"], **given.get("optional", {})}
        assert {each["name"] for each in node["inputs"]} <= set(inputs)
        widgets = {name: each for name, each in inputs.items() if workflows.is_widget(each[0])}
        for (widget, (kind, *options)), value in zip(widgets.items(), node["widgets_values"], strict=True):
            if widget == "audio_file":
                assert value in kind, "an example sound"
            elif isinstance(kind, list):
                assert value in kind or widget == "encoder_name"
            elif kind in ("INT", "FLOAT"):
                assert options[0]["min"] <= value <= options[0]["max"]
        for each in node["inputs"]:
            needed = each["name"] in given["required"]
            assert each["link"] is not None or not needed, f"{node['type']}: {each['name']}"
    for key, source, slot, target, place, kind in workflow["links"]:
        assert nodes[source]["outputs"][slot]["type"] == kind and key in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][place]["link"] == key
