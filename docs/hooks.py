"""What the site shows that is not written by hand: the gallery, the notebooks, the settings."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
CHECKOUT = DOCS.parent


def on_pre_build(config: Any) -> None:
    """Draw the gallery before the files of the site are collected."""
    spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(DOCS / "gallery.py")
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    gallery.draw(DOCS / "gallery")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in `<!-- gallery -->`, `<!-- notebook: FILE -->` and `<!-- settings: TASK -->`."""
    markdown = markdown.replace("<!-- gallery -->", _gallery())
    markdown = re.sub(r"<!-- notebook: (\S+) -->", lambda m: notebook(DOCS / m[1]), markdown)
    return re.sub(r"<!-- settings: (\w+) -->", lambda m: _settings(m[1]), markdown)


def notebook(path: Path) -> str:
    """A notebook with its outputs as Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> list[str]:
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [text]
    return [f"```python\n{text}\n```", *(_output(output) for output in cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f'<div class="output" markdown="0"><img alt="output of the cell" src="data:image/png;base64,{picture}"></div>'  # noqa: E501
    if "text/html" in data:
        html = re.sub(r"\n\s*\n", "\n", "".join(data["text/html"]))
        html = re.sub(r"<style scoped>.*?</style>", "", html, flags=re.DOTALL)
        return f'<div class="output" markdown="0">\n{html}\n</div>'
    text = "".join(data.get("text/plain", output.get("text", [])))
    return f"```text\n{text.rstrip()}\n```"


def _settings(task: str) -> str:
    text = (CHECKOUT / "conf" / f"{task}.yaml").read_text(encoding="utf-8")
    shown = text.partition("\ntask: ")[2].partition("\nhydra:")[0]
    lines = [line for line in shown.splitlines()[1:] if "${" not in line]
    return "```yaml\n" + "\n".join(lines) + "\n```"


def _gallery() -> str:
    drawn = json.loads((DOCS / "gallery" / "drawn.json").read_text(encoding="utf-8"))
    views = drawn["views"]
    rows = [f"| method | {' | '.join(views)} |", "|---" * (len(views) + 1) + "|"]
    for name, found in drawn["methods"].items():
        cells = [
            f"![{name}, {view}](gallery/{name}-{view}.png)" if view in found else "–"
            for view in views
        ]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    missing = [f"| `{name}` | {reason} |" for name, reason in drawn["missing"].items()]
    return "\n".join(
        [
            '<div class="gallery" markdown="1">\n\n![the four images](gallery/images.png)\n',
            *rows,
            "\n</div>\n",
            "## Not on this network\n\n| method | why |\n|---|---|",
            *missing,
        ]
    )
